"""How much memory processes can still take."""

from __future__ import annotations

import os
from pathlib import Path

_GROUP = Path("/sys/fs/cgroup")
_SHARED = Path("/dev/shm")


def free_memory() -> int | None:
    """Bytes that processes can still take, of the machine or of its container; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    amounts = dict(line.split(":") for line in lines)
    available = 1024 * int(amounts["MemAvailable"].split()[0])
    return min(available, _free_in_container() or available)


def free_shared_memory() -> int | None:
    """Bytes that processes can still share (``/dev/shm``, of which containers have 64 MB); None where there is none."""
    if not _SHARED.is_dir():
        return None
    status = os.statvfs(_SHARED)
    return status.f_bavail * status.f_frsize


def _free_in_container() -> int | None:
    try:
        limit = (_GROUP / "memory.max").read_text(encoding="utf-8").strip()
        used = int((_GROUP / "memory.current").read_text(encoding="utf-8"))
        figures = dict(line.split() for line in (_GROUP / "memory.stat").read_text(encoding="utf-8").splitlines())
    except OSError:
        return None
    if limit == "max":
        return None
    # What is only kept to be read again is given up where memory is needed.
    return max(0, int(limit) - used + int(figures.get("inactive_file", 0)))


def gigabytes(amount: int | None) -> str:
    """An amount in words."""
    return "an unknown amount" if amount is None else f"{amount / 1e9:.1f} GB"
