"""1,000 small cases through convert, merge and verify on two processes: is memory flat and the rate steady?

Least work possible per case of 64^3 voxels (16-bit image, 8-bit label map; 0.8 MB): decompress both once, hash and sum
the image once, translate and compress the label map once. Converting decompresses both and writes both; verifying
(nnU-Net's ``verify_dataset_integrity``) decompresses the label map twice and the image once. There is no peer that
merges, so nnU-Net's verification of the same cases, which only reads, is the yardstick.

Memory is that of the command and all its processes together (proportional set size), sampled five times a second.
``growth_mb`` compares the last quarter of the cases with the second. Prints one JSON line:

    python scripts/benchmarks/merge_datasets.py --cases 1000
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

PROCESSES = "2"


def write_sources(folder: Path, cases: int) -> None:
    """Two folders of images and label maps with 3 classes, in the layout that ``label_maps`` converts."""
    import SimpleITK

    order = {"name": "three_organs", "labels": {"liver": 1, "spleen": 2, "aorta": 3}}
    (folder / "order.json").write_text(json.dumps(order))
    rng = np.random.default_rng(0)
    grid = np.indices((64, 64, 64)).sum(axis=0)
    for number in range(cases):
        label = ((grid + rng.integers(64)) // 16 % 4).astype(np.uint8)
        image = (label * 100 + rng.normal(0, 20, label.shape)).astype(np.int16)
        for part, array in (("images", image), ("labels", label)):
            file = folder / f"source_{number % 2}" / part / f"case_{number:04d}.nii.gz"
            file.parent.mkdir(parents=True, exist_ok=True)
            SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array), str(file), True)


def run(command: Sequence[str], finished_cases: Callable[[], int]) -> dict[str, float]:
    """Runs a command and watches its memory and its progress."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    samples: list[tuple[float, int, float]] = []
    while process.poll() is None:
        samples.append((time.perf_counter() - start, finished_cases(), _memory_mb(process.pid)))
        time.sleep(0.2)
    seconds = time.perf_counter() - start
    if process.returncode:
        raise SystemExit(f"{command} failed: {process.stderr.read().decode() if process.stderr else ''}")
    total = max(1, finished_cases())
    quarter = [[s for s in samples if total * q / 4 <= s[1] < total * (q + 1) / 4] or samples for q in range(4)]
    second, last = ([s[2] for s in quarter[q]] for q in (1, 3))
    durations = [quarter[q][-1][0] - quarter[q][0][0] for q in (1, 2)]
    return {
        "seconds": round(seconds, 1),
        "peak_mb": round(max(s[2] for s in samples)),
        "growth_mb": round(statistics.median(last) - statistics.median(second)),
        "third_to_second_quarter_time": round(durations[1] / max(durations[0], 1e-9), 2),
    }


def _memory_mb(root: int) -> float:
    """Proportional set size of a process and its descendants, in MB."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue  # it has just ended
            children.setdefault(parent, []).append(int(entry.name))
    waiting, kilobytes = [root], 0
    while waiting:
        pid = waiting.pop()
        waiting += children.get(pid, [])
        try:
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8")
        except OSError:
            continue
        kilobytes += sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    return kilobytes / 1e3


def main() -> None:
    """Runs the three steps on a temporary folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=1000)
    cases = parser.parse_args().cases
    binaries = Path(sys.executable).parent
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ |= {variable: str(folder / variable) for variable in ("nnUNet_raw", "nnUNet_preprocessed")}
        raw = folder / "nnUNet_raw"
        for variable in ("nnUNet_raw", "nnUNet_preprocessed"):
            (folder / variable).mkdir()
        write_sources(folder, cases)

        def count(pattern: str) -> Callable[[], int]:
            return lambda: sum(1 for _ in raw.glob(pattern))

        steps: dict[str, dict[str, float]] = {}
        for source in (0, 1):
            arguments = ["label_maps", "-i", str(folder / f"source_{source}"), "-d", str(source + 1)]
            arguments += ["-n", f"S{source}", "--order", str(folder / "order.json"), "-np", PROCESSES, "--quiet"]
            command = [str(binaries / "nnUNetv2_ext_convert_dataset"), *arguments]
            steps[f"convert_{source}"] = run(command, count(f"Dataset00{source + 1}_*/labelsTr/*"))
        arguments = ["1", "2", "-d", "3", "-n", "Both", "-np", PROCESSES, "--quiet"]
        steps["merge"] = run(
            [str(binaries / "nnUNetv2_ext_merge_datasets"), *arguments], count("*Dataset003_Both*/labelsTr/*")
        )
        merged = raw / "Dataset003_Both"
        code = (
            "from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity as verify\n"
            f"if __name__ == '__main__':\n    verify({str(merged)!r}, {PROCESSES})\n"
        )
        (folder / "verify.py").write_text(code)
        steps["verify"] = run([sys.executable, str(folder / "verify.py")], lambda: 0)
        dataset_json = json.loads((merged / "dataset.json").read_text())
        splits = json.loads((merged / "splits_final.json").read_text())
        agreement = dataset_json["numTraining"] == cases == sum(len(fold["val"]) for fold in splits)
    ours, peer = steps["merge"], steps["verify"]
    print(
        json.dumps(
            {
                "name": "merge_datasets",
                "ours_s": ours["seconds"],
                "peer_s": peer["seconds"],
                "ratio": round(ours["seconds"] / peer["seconds"], 3),
                "ours_peak_mb": ours["peak_mb"],
                "peer_peak_mb": peer["peak_mb"],
                "agreement": agreement,
                "cases": cases,
                "merged_per_s": round(cases / ours["seconds"], 1),
                "converted_per_s": round(cases / sum(steps[f"convert_{s}"]["seconds"] for s in (0, 1)), 1),
                "steps": steps,
            }
        )
    )


if __name__ == "__main__":
    main()
