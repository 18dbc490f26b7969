"""Peak memory of whole commands on a CT of 600 planes of 512 x 512 voxels with 105 classes.

`nnUNetv2_ext_predict` and `nnUNetv2_predict_from_modelfolder` each run as a process of their own, with a tiny network
and no mirroring. Stock's resampled logits alone take 105 x 600 x 512 x 512 x 2 bytes = 33 GB, so it is stopped as soon
as it holds more than ``--stock_limit_gb``.

Least memory: the image as float32 (0.63 GB), its copy at the network's spacing of 1.5 mm (0.12 GB), sums for one patch
depth (105 x 32 x 273 x 273 x 4 bytes = 1.0 GB) and the label map (0.16 GB).
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import SimpleITK
from _measure import report
from _models import dataset_json_of, plans_of, write_model_folder

CLASSES = 105
SPACING = (0.8, 0.8, 1.0)


def write_scan(target: Path, planes: int, size: int) -> None:
    """A body of blocks of different density in air."""
    generator = np.random.default_rng(0)
    blocks = generator.integers(-100, 300, (-(-planes // 16), size // 16, size // 16), dtype=np.int16)
    scan = blocks.repeat(16, 0)[:planes].repeat(16, 1).repeat(16, 2)
    y, x = np.ogrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    scan[:, (y / 0.7) ** 2 + (x / 0.9) ** 2 > 1] = -1000
    image = SimpleITK.GetImageFromArray(scan)
    image.SetSpacing(SPACING)
    SimpleITK.WriteImage(image, str(target), useCompression=True, compressionLevel=1)


def peak_of(command: list[str], limit_gb: float = 0) -> tuple[int, float, float, str]:
    """Exit code, seconds, peak resident memory in GB of the process and all its children together, and the messages.

    With a limit, all of them are killed as soon as they exceed it together.
    """
    start = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", start_new_session=True
    )
    peak, running = 0, True

    def watch() -> None:
        nonlocal peak
        while running:
            peak = max(peak, _resident_of_family(process.pid))
            if limit_gb and peak > limit_gb * 1e9:
                os.killpg(process.pid, signal.SIGKILL)
                return
            time.sleep(0.1)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        messages, _ = process.communicate()
    finally:
        running = False
        watcher.join()
    return process.returncode, time.perf_counter() - start, peak / 1e9, messages


def _resident_of_family(pid: int) -> int:
    """Resident bytes of a process and its descendants."""
    parents, resident = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            # The command may hold blanks and brackets; the fields after it do not.
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has just ended
        parents[int(folder.name)], resident[int(folder.name)] = int(fields[1]), int(fields[21]) * 4096
    family, children = {pid}, {pid}
    while children:
        children = {child for child, parent in parents.items() if parent in family} - family
        family |= children
    return sum(resident.get(member, 0) for member in family)


def main() -> None:
    """Runs both commands and prints one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--planes", type=int, default=600)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--mode", default="accurate")
    parser.add_argument("--stock_limit_gb", type=float, default=12.0, help="stop stock there; 0 leaves it out")
    arguments = parser.parse_args()
    binaries = Path(sys.executable).parent
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tiny = {
            "features_per_stage": [4, 8],
            "n_blocks_per_stage": [1, 1],
            "strides": [[1, 1, 1], [2, 2, 2]],
        }
        model = write_model_folder(
            folder / "model", plans_of([32, 96, 96], [1.5, 1.5, 1.5], tiny), dataset_json_of(CLASSES - 1)
        )
        (folder / "in").mkdir()
        write_scan(folder / "in" / "long_0000.nii.gz", arguments.planes, arguments.size)
        shared = ["-i", str(folder / "in"), "-m", str(model), "-f", "0", "-device", "cpu", "--disable_tta"]
        code, seconds, peak, messages = peak_of(
            [str(binaries / "nnUNetv2_ext_predict"), *shared, "-o", str(folder / "ours"), "--mode", arguments.mode]
        )
        if code:
            raise SystemExit(messages)
        labels = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(folder / "ours" / "long.nii.gz")))
        stock: dict[str, object] = {}
        if arguments.stock_limit_gb:
            _, stock_seconds, stock_peak, _ = peak_of(
                [
                    str(binaries / "nnUNetv2_predict_from_modelfolder"),
                    *shared,
                    *("-o", str(folder / "stock"), "-npp", "1", "-nps", "1"),
                ],
                arguments.stock_limit_gb,
            )
            stock = {
                "peer_s": stock_seconds,
                "peer_peak_gb": stock_peak,
                "peer_stopped_at_gb": arguments.stock_limit_gb if stock_peak > arguments.stock_limit_gb else None,
                "peer_wrote_a_label_map": (folder / "stock" / "long.nii.gz").exists(),
            }
        report(
            "long_scan",
            ours_s=seconds,
            ours_peak_gb=peak,
            labels_found=len(np.unique(labels)),
            shape=list(labels.shape),
            mode=arguments.mode,
            stock_needs_at_least_gb=CLASSES * arguments.planes * arguments.size**2 * 2 / 1e9,
            **stock,
        )


if __name__ == "__main__":
    main()
