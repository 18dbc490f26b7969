"""What a run did: versions, model, time and memory of every stage, files."""

from __future__ import annotations

import os
import platform
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from nnunetv2_ext.utilities.files import write_json

_SAMPLING_SECONDS = 0.05
_PACKAGES = ("nnunetv2-ext", "nnunetv2", "torch", "openvino", "SimpleITK", "nibabel", "numpy")


class StageClock:
    """Seconds and peak memory per stage and case, measured from several threads at once.

    Memory is the resident set of the whole process, sampled while the stage ran: with stages of several cases side by
    side it is an upper bound of what the stage itself took.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seconds: dict[str, dict[str, float]] = {}
        self._peak_mb: dict[str, float] = {}
        self._running: list[str] = []
        self._ended = threading.Event()
        self._sampler: threading.Thread | None = None

    def __enter__(self) -> StageClock:
        """Starts sampling the memory."""
        self._sampler = threading.Thread(target=self._sample, name="memory sampler", daemon=True)
        self._sampler.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stops sampling."""
        self._ended.set()
        if self._sampler is not None:
            self._sampler.join()

    @contextmanager
    def stage(self, name: str, case: str) -> Iterator[None]:
        """Counts the time until the end of the block for a stage of a case."""
        start = time.perf_counter()
        with self._lock:
            self._running.append(name)
        self._note_memory()
        try:
            yield
        finally:
            self._note_memory()
            with self._lock:
                self._running.remove(name)
                stages = self._seconds.setdefault(case, {})
                stages[name] = stages.get(name, 0.0) + time.perf_counter() - start

    def add(self, case: str, stages: Mapping[str, Mapping[str, float]]) -> None:
        """Counts what another process measured for a case: the `totals` of a clock of its own."""
        with self._lock:
            of_case = self._seconds.setdefault(case, {})
            for name, figures in stages.items():
                of_case[name] = of_case.get(name, 0.0) + figures["seconds"]
                self._peak_mb[name] = max(self._peak_mb.get(name, 0.0), figures["peak_memory_mb"])

    def seconds(self, case: str) -> dict[str, float]:
        """Seconds per stage of a case."""
        with self._lock:
            return {name: round(value, 3) for name, value in self._seconds.get(case, {}).items()}

    def totals(self) -> dict[str, dict[str, float]]:
        """Per stage: the seconds of all cases and the peak memory in MB."""
        with self._lock:
            names = list(dict.fromkeys(name for stages in self._seconds.values() for name in stages))
            return {
                name: {
                    "seconds": round(sum(stages.get(name, 0.0) for stages in self._seconds.values()), 3),
                    "peak_memory_mb": round(self._peak_mb.get(name, 0.0), 1),
                }
                for name in names
            }

    def _sample(self) -> None:
        while not self._ended.wait(_SAMPLING_SECONDS):
            self._note_memory()

    def _note_memory(self) -> None:
        resident = resident_memory_mb()
        with self._lock:
            for name in self._running:
                self._peak_mb[name] = max(self._peak_mb.get(name, 0.0), resident)


def resident_memory_mb() -> float:
    """Memory that this process holds now, in MB; its peak so far, or 0, where the system does not tell."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text(encoding="utf-8").split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    try:
        import resource
    except ImportError:  # on Windows
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if platform.system() == "Darwin" else peak / 2**10


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide about a prediction."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def write_report(target: Path, content: dict[str, Any], clock: StageClock) -> None:
    """Writes the report: ``content`` between the versions and the totals of the clock."""
    write_json({"versions": versions(), "platform": platform.platform(), **content, "stages": clock.totals()}, target)
