"""Many requests at once to ``nnUNetv2_ext_serve``: what gets lost, how long it takes, and whether memory grows.

    python scripts/benchmarks/serving.py --requests 200 --clients 8

Each client sends a scan, waits for its job, and fetches the label map. Memory is that of the server and all its
workers together, sampled 20 times a second: its peak while the first fifth of the requests is answered, and at all.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import SimpleITK
from _measure import report
from _models import dataset_json_of, plans_of, write_model_folder

COMMAND = "from nnunetv2_ext.cli.serve import main; raise SystemExit(main())"


def main() -> None:
    """Prints one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--size", type=int, default=48, help="voxels along each axis of the scan")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        architecture = {"features_per_stage": [4, 4], "n_blocks_per_stage": [1, 1], "strides": [[1] * 3, [2] * 3]}
        plans = plans_of([32] * 3, [1.5] * 3, architecture)
        model = write_model_folder(folder / "model", plans, dataset_json_of(4))
        scan = _scan(folder / "ct.nii.gz", arguments.size)
        with _server(model, folder / "server") as (process, client):
            _measure(process, client, scan, arguments.requests, arguments.clients)


def _measure(process: subprocess.Popen[str], client: httpx.Client, scan: bytes, requests: int, clients: int) -> None:
    ended, peaks, running = [0], [0.0, 0.0], True

    def watch() -> None:
        while running:
            memory = _memory_mb(process.pid)
            peaks[1] = max(peaks[1], memory)
            if ended[0] < requests / 5:
                peaks[0] = max(peaks[0], memory)
            time.sleep(0.05)

    def ask(_: int) -> tuple[str, str]:
        job = client.post("/jobs", files={"file": ("ct", scan)}).raise_for_status().json()["id"]
        while (content := client.get(f"/jobs/{job}").json())["state"] in ("waiting", "running"):
            time.sleep(0.1)
        labels = client.get(content["label_maps"]["nii.gz"]).raise_for_status().content
        ended[0] += 1
        return job, hashlib.sha256(labels).hexdigest()

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    try:
        with ThreadPoolExecutor(clients) as pool:
            answers = list(pool.map(ask, range(requests)))
        seconds = time.perf_counter() - start
    finally:
        running = False
        watcher.join()
    figures = dict(re.findall(r"^nnunetv2_ext_(\w+) (\d+)", client.get("/metrics").text, re.MULTILINE))
    report(
        "serving",
        requests=requests,
        clients=clients,
        lost=requests - len({job for job, _ in answers}),
        failed=int(figures["jobs_failed_total"]),
        different_answers=len({digest for _, digest in answers}),
        model_loads=int(figures["model_loads_total"]),
        seconds=seconds,
        peak_mb_of_first_fifth=peaks[0],
        peak_mb=peaks[1],
    )


@contextmanager
def _server(model: Path, folder: Path) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    arguments = ["-m", f"tiny={model}", "-o", str(folder), "--port", "0", "-device", "cpu", "--mode", "fast", "--quiet"]
    with subprocess.Popen(
        [sys.executable, "-c", COMMAND, *arguments], stdout=subprocess.PIPE, encoding="utf-8"
    ) as process:
        try:
            assert process.stdout is not None
            address = re.search(r"http://\S+:\d+", process.stdout.readline())
            assert address is not None, "the server has not started"
            with httpx.Client(base_url=address[0], timeout=600) as client:
                yield process, client
        finally:
            process.terminate()


def _scan(file: Path, size: int) -> bytes:
    array = np.random.default_rng(0).normal(0, 200, (size,) * 3).astype(np.int16)
    image = SimpleITK.GetImageFromArray(array)
    image.SetSpacing((1.5,) * 3)
    SimpleITK.WriteImage(image, str(file))
    return file.read_bytes()


def _memory_mb(process: int) -> float:
    """Resident memory of a process and its children, in MB (10^6 bytes)."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text(encoding="utf-8").split()
    pages = 0
    for each in (process, *map(int, children)):
        try:
            pages += int(Path(f"/proc/{each}/statm").read_text(encoding="utf-8").split()[1])
        except FileNotFoundError:  # it has just ended
            continue
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    main()
