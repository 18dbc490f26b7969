"""Time and peak memory of a function, for the benchmarks beside this file."""

from __future__ import annotations

import json
import statistics
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

_PROCESS = Path("/proc/self")


def seconds(
    functions: Mapping[str, Callable[[], Any]], repeats: int, device: str = "cpu", clock: str = "wall"
) -> dict[str, float]:
    """Median seconds of each function. They take turns, so that a busy machine slows all of them alike.

    With ``clock="cpu"`` the time that all threads of the process spent computing: for one thread on a machine where
    others compute too.
    """
    now = time.process_time if clock == "cpu" else time.perf_counter
    times: dict[str, list[float]] = {name: [] for name in functions}
    for function in functions.values():
        function()
    for _ in range(repeats):
        for name, function in functions.items():
            _wait_for(device)
            start = now()
            function()
            _wait_for(device)
            times[name].append(now() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def extra_peak_mb(function: Callable[[], Any], device: str = "cpu") -> float:
    """Highest memory while ``function`` runs minus the memory before it, in MB (10^6 bytes).

    On CUDA what PyTorch allocates; on the CPU the resident memory of the process, sampled every half millisecond.
    """
    function()  # libraries allocate their own buffers on the first call
    if device != "cpu":
        _wait_for(device)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        _wait_for(device)
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    return run_once(function).extra_peak_mb


@dataclass
class Run:
    """What one call of a function took and gave.

    Attributes:
        result: What it returned.
        seconds: Wall-clock time.
        cpu_seconds: Processor time of all threads, which a busy machine does not lengthen as it does the other.
        extra_peak_mb: Highest resident memory while it ran minus that before, in MB (10^6 bytes), sampled every half
            millisecond.
    """

    result: Any
    seconds: float
    cpu_seconds: float
    extra_peak_mb: float


def run_once(function: Callable[[], Any]) -> Run:
    """Time and memory of a single call, on the CPU: for functions that take minutes."""
    before, peak, running = _resident_bytes(), 0, True

    def watch() -> None:
        nonlocal peak
        while running:
            peak = max(peak, _resident_bytes())
            time.sleep(0.0005)

    watcher = threading.Thread(target=watch)
    watcher.start()
    start, cpu_start = time.perf_counter(), time.process_time()
    try:
        result = function()
        taken, cpu_taken = time.perf_counter() - start, time.process_time() - cpu_start
    finally:
        running = False
        watcher.join()
    return Run(result, taken, cpu_taken, max(0, peak - before) / 1e6)


def tensor_peak_mb(function: Callable[[], Any], device: str = "cpu") -> float:
    """Highest memory of the tensors that ``function`` creates, in MB (10^6 bytes).

    Unlike `extra_peak_mb` it also sees tensors in memory that the process keeps between calls, as many small ones do.
    """
    if device != "cpu":
        return extra_peak_mb(function, device)
    for _ in range(2):  # the profiler only knows the size of what was created under its eyes, and so of what is freed
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            function()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak / 1e6


def report(name: str, **figures: Any) -> None:
    """Prints the one JSON line of a benchmark, floats with four significant digits."""
    rounded = {key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in figures.items()}
    print(json.dumps({"name": name, **rounded}), flush=True)


def _wait_for(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def _resident_bytes() -> int:
    return int((_PROCESS / "statm").read_text().split()[1]) * 4096
