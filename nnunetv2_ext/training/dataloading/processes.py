"""How many processes of a loader the memory holds."""

from __future__ import annotations

from nnunetv2_ext.utilities.memory import free_memory, free_shared_memory

_SHARE = 0.8
"""Of the free memory: the rest is for what else the training needs."""

_OF_A_PROCESS = 300e6
"""Bytes that a loading process takes beside its batches: what it changes of the memory that it was forked with."""

_COPIES = 4
"""Batches of the size before cropping that augmentation holds at once: the images, those that are being made of them,
coordinates and random numbers."""


def cached_batches(processes: int) -> tuple[int, int]:
    """How many batches nnU-Net keeps ready for training and for validation."""
    return max(6, processes // 2), max(3, processes // 4)


def validating_processes(processes: int) -> int:
    """How many processes load validation data, as nnU-Net."""
    return min(processes, max(1, processes // 2))


def processes_that_fit(wanted: int, batch_bytes: int, cropped_from_bytes: int, sharing: int = 1) -> int:
    """How many of the processes wanted the memory holds.

    Args:
        wanted: nnU-Net's number.
        batch_bytes: Of a finished batch, which travels through shared memory.
        cropped_from_bytes: Of its images before they are cropped to the patch size.
        sharing: How many trainings take of the same memory.
    """
    memory, shared = free_memory(), free_shared_memory()
    for processes in range(wanted, 0, -1):
        loading = processes + validating_processes(processes)
        # A ready batch waits in one of two queues, and each process has one in its hands.
        travelling = (2 * sum(cached_batches(processes)) + loading) * batch_bytes
        needed = loading * (_OF_A_PROCESS + _COPIES * cropped_from_bytes) + travelling
        if (memory is None or needed * sharing < _SHARE * memory) and (
            shared is None or travelling * sharing < _SHARE * shared
        ):
            return processes
    return 0
