"""Runs every benchmark beside this file and writes their figures, with the machine's, into one JSON file.

    python scripts/benchmarks/run_all.py --device cuda --out FILE

Benchmarks of files and processes run on the CPU whatever the device, in small sizes when it is a GPU, so that all of
them take a few minutes there; ``--quick`` makes all of them small. A benchmark that fails is listed with the reason,
the others go on, and the exit code is 1. One that needs a library which is not installed is skipped with that reason.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
SCANS = "SCANS"  # stands for the folder of CTs


@dataclass(frozen=True)
class Benchmark:
    """How to call one script.

    Attributes:
        quick: Arguments that make it take seconds.
        full: Arguments of the published figures.
        on_device: Whether it takes ``--device``; the others run on the CPU.
        library: What has to be installed for it.
    """

    quick: str
    full: str = ""
    on_device: bool = False
    library: str | None = None


BENCHMARKS = {
    "convert_dataset": Benchmark("--cases 8 --size 16"),
    "dataset_report": Benchmark("--cases 8 --size 32 32 16"),
    "export": Benchmark("--classes 12 --size 64 --new_size 96 --repeats 1", on_device=True),
    "finetuning": Benchmark(
        "--seeds 1 --cases 4 2 --pretraining_steps 4 --most_steps 4 --every 2 --dice 0.2", on_device=True
    ),
    "label_tree_loss": Benchmark("--size 16 --repeats 1", on_device=True),
    "long_scan": Benchmark("--planes 40 --size 64 --stock_limit_gb 0"),
    "merge_datasets": Benchmark("--cases 8"),
    "openvino_forward": Benchmark("--patch 32 --classes 5 --repeats 1", library="openvino"),
    "partial_label_loading": Benchmark("--classes 47 --size 32 --repeats 1"),
    "partial_label_loss": Benchmark("--size 16 --repeats 1", on_device=True),
    "partial_label_step": Benchmark("--size 32 --repeats 1", on_device=True),
    "predict_agreement": Benchmark(
        f"{SCANS} --cases 1 --iterations 2 --kinds softmax_3d_random regions_2d_trained", SCANS, on_device=True
    ),
    "predict_end_to_end": Benchmark(
        f"{SCANS} --cases 1 --size tiny --classes 5 --patch 32 --in_plane 3 --spacing 3", SCANS, on_device=True
    ),
    "serving": Benchmark("--requests 4 --clients 2 --size 32", library="starlette"),
    "sliding_window": Benchmark("--planes 256 --peer_planes 256 --size 32"),
    "stunet_forward": Benchmark("--patch 32 --classes 5 --repeats 1", on_device=True),
    "validation": Benchmark("--classes 6 --patch 32 --in_plane 3 --spacing 3"),
    "wholebody_inference": Benchmark("--size 96 96 128 --filters 8", library="monai"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmarks; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="JSON file to write")
    parser.add_argument("--quick", action="store_true", help="small sizes everywhere")
    parser.add_argument("--only", nargs="+", choices=list(BENCHMARKS), default=list(BENCHMARKS), metavar="NAME")
    parser.add_argument("--scans", type=Path, help="folder with */ct.nii.gz and labels; by default phantoms are made")
    parser.add_argument("--limit_s", type=float, default=3600, help="seconds after which a benchmark is stopped")
    arguments = parser.parse_args(argv)
    start = time.perf_counter()
    content: dict[str, Any] = {**_machine(arguments.device), "quick": arguments.quick}
    content |= {"benchmarks": {}, "failed": {}, "skipped": {}}
    with tempfile.TemporaryDirectory() as name:
        scans = arguments.scans or _write_phantoms(Path(name))
        for script in arguments.only:
            benchmark = BENCHMARKS[script]
            if benchmark.library and importlib.util.find_spec(benchmark.library) is None:
                content["skipped"][script] = f"{benchmark.library} is not installed"
            else:
                small = arguments.quick or (arguments.device != "cpu" and not benchmark.on_device)
                options = (benchmark.quick if small else benchmark.full).replace(SCANS, str(scans)).split()
                device = arguments.device if benchmark.on_device else "cpu"
                options += ["--device", device] if benchmark.on_device else []
                _run(script, options, device, arguments.limit_s, content)
            content["seconds"] = round(time.perf_counter() - start, 1)
            # After every benchmark: whoever runs out of time keeps what there is.
            arguments.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    for script, reason in content["failed"].items():
        print(f"{script} failed: {reason}", file=sys.stderr)
    return 1 if content["failed"] else 0


def _run(script: str, options: Sequence[str], device: str, limit_s: float, content: dict[str, Any]) -> None:
    """Runs one script in a process of its own and files its lines, or why there are none."""
    print(f"{script} {' '.join(options)}", flush=True)
    start = time.perf_counter()
    try:
        command = [sys.executable, str(FOLDER / f"{script}.py"), *options]
        result = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=limit_s)
    except subprocess.TimeoutExpired:
        content["failed"][script] = f"it took more than {limit_s:g} s"
        return
    lines = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    if result.returncode or not lines:
        said = result.stderr.strip().splitlines() or ["it printed nothing"]
        content["failed"][script] = f"exit code {result.returncode}: {said[-1]}"
        content.setdefault("output_of_failed", {})[script] = said[-30:]
        return
    entry = {"arguments": list(options), "device": device, "seconds": round(time.perf_counter() - start, 1)}
    content["benchmarks"][script] = {**entry, "results": lines}


def _machine(device: str) -> dict[str, Any]:
    """Names and versions that figures depend on."""
    import torch

    versions = {"python": platform.python_version(), "cuda": torch.version.cuda}
    for name in ("torch", "nnunetv2", "nnunetv2-ext", "numpy", "numba", "SimpleITK"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    gpu = torch.cuda.get_device_name() if device == "cuda" else None
    return {"device": device, "gpu": gpu, "cpus": os.cpu_count(), "machine": platform.machine(), "versions": versions}


def _write_phantoms(folder: Path) -> Path:
    """Two synthetic CTs in the layout that the benchmarks of prediction expect."""
    import SimpleITK

    from nnunetv2_ext.demo.phantoms import make_phantom

    for seed in range(2):
        phantom = make_phantom(seed)
        target = folder / f"phantom_{seed}"
        target.mkdir()
        for name, array in (("ct", phantom.image), ("totalsegmentator_v2_labels", phantom.labels)):
            image = SimpleITK.GetImageFromArray(array)
            image.SetSpacing(phantom.spacing[::-1])
            SimpleITK.WriteImage(image, str(target / f"{name}.nii.gz"))
    return folder


if __name__ == "__main__":
    sys.exit(main())
