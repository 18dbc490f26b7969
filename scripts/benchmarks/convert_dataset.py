"""Conversion of many cases: rate and memory must not depend on how many there are.

The least work per case is to read the image (decompress), to look at each of its voxels once, to read the label map and
to write it compressed; images are linked. Memory must be that of the cases under way, not of those done.

Usage: python scripts/benchmarks/convert_dataset.py [--cases 1000] [--size 64] [-np 2] [--verify] [--merge]

Prints one JSON line: cases per second in the first and the last quarter, and the peak resident memory of this process
with its workers after the first and after the last quarter (MB). With ``--verify`` and ``--merge``,
nnU-Net's own check and a merge follow.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunetv2_ext.dataset_conversion import raw_dataset
from nnunetv2_ext.dataset_conversion.converter import ConversionOptions
from nnunetv2_ext.dataset_conversion.merge import merge_datasets
from nnunetv2_ext.dataset_conversion.registry import find_dataset


def write_source(folder: Path, cases: int, size: int) -> None:
    """Images of smooth noise and label maps with five classes, the layout of ``label_maps``."""
    random = np.random.default_rng(0)
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    for number in range(cases):
        image = np.repeat(random.integers(-1000, 1000, (size, size // 8, size // 8)), 8, axis=1).repeat(8, axis=2)
        label = np.zeros((size, size, size), np.uint8)
        for value in range(1, 6):
            z, y, x = random.integers(0, size // 2, 3)
            label[z : z + size // 3, y : y + size // 3, x : x + size // 3] = value
        for part, array in (("images", image.astype(np.int16)), ("labels", label)):
            path = folder / part / f"case_{number:05d}.nii.gz"
            sitk.WriteImage(sitk.GetImageFromArray(array), str(path), useCompression=True, compressionLevel=1)
    names = ", ".join(f'"class_{value}": {value}' for value in range(1, 6))
    (folder / "order.json").write_text(f'{{"name": "synthetic", "labels": {{{names}}}}}')


def resident_mb() -> float:
    """Resident memory of a process and its children, MB (10^6 bytes)."""
    total = 0.0
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue  # it ended while we looked
        pid, parent = int(status.parent.name), int(fields[1])
        if pid == os.getpid() or parent == os.getpid():
            total += int(fields[21]) * 4096 / 1e6
    return total


def main() -> None:
    """Converts and reports."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("-np", "--num_processes", type=int, default=2)
    parser.add_argument("--verify", action="store_true", help="run nnU-Net's verify_dataset_integrity on the result")
    parser.add_argument("--merge", action="store_true", help="make a collection of the result")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        source, folder = Path(temporary) / "source", Path(temporary) / "raw" / "Dataset001_Synthetic"
        write_source(source, arguments.cases, arguments.size)
        options = ConversionOptions(order=str(source / "order.json"))
        converter = find_dataset("label_maps").open(source, options)
        samples: list[tuple[float, int, float]] = []
        running = True

        def watch() -> None:
            work = folder / raw_dataset.WORK
            while running:
                done = len(list(work.glob("case_*.json"))) if work.is_dir() else 0
                samples.append((time.perf_counter(), done, resident_mb()))
                time.sleep(0.1)

        watcher = threading.Thread(target=watch)
        watcher.start()
        start = time.perf_counter()
        result = raw_dataset.convert_dataset(converter, folder, num_processes=arguments.num_processes, progress=False)
        seconds = time.perf_counter() - start
        running = False
        watcher.join()
        quarter = arguments.cases // 4
        first = [sample for sample in samples if 0 < sample[1] <= quarter]
        last = [sample for sample in samples if sample[1] >= 3 * quarter]
        figures: dict[str, float] = {
            "cases": len(result.converted),
            "failed": len(result.failed),
            "seconds": seconds,
            "cases_per_s": arguments.cases / seconds,
            "cases_per_s_first_quarter": rate(samples, 1, quarter),
            "cases_per_s_last_quarter": rate(samples, 3 * quarter, arguments.cases),
            "peak_mb_first_quarter": max((sample[2] for sample in first), default=0.0),
            "peak_mb_last_quarter": max((sample[2] for sample in last), default=0.0),
        }
        if arguments.verify:
            from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity

            start = time.perf_counter()
            verify_dataset_integrity(str(folder), arguments.num_processes)
            figures["verify_s"] = time.perf_counter() - start
        if arguments.merge:
            os.environ["nnUNet_raw"] = str(folder.parent)
            start = time.perf_counter()
            merge_datasets(["1"], 2, "Collection", processes=arguments.num_processes, progress=False)
            figures["merge_s"] = time.perf_counter() - start
            figures["peak_mb_merge_parent"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
        rounded = {name: float(f"{value:.4g}") for name, value in figures.items()}
        print(json.dumps({"name": "convert_dataset", **rounded}), flush=True)


def rate(samples: list[tuple[float, int, float]], first: int, last: int) -> float:
    """Cases per second between the moments when so many cases were done."""
    # The last few may be done between two looks.
    seen = max(sample[1] for sample in samples)
    start, end = (next(sample for sample in samples if sample[1] >= min(count, seen)) for count in (first, last))
    return (end[1] - start[1]) / max(end[0] - start[0], 1e-9)


if __name__ == "__main__":
    main()
