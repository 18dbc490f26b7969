"""One function over many cases: several processes, a progress bar, and a bad case that stops nobody else."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from nnunetv2_ext.utilities.errors import UserError, disk_error

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Outcome(Generic[Item, Result]):
    """What became of one item: a result, or the reason why there is none."""

    item: Item
    result: Result | None = None
    error: str | None = None


def default_processes() -> int:
    """Number of processes where ``-np`` is not given: nnU-Net's ``nnUNet_def_n_proc``, else 8, at most the CPUs."""
    wanted = os.environ.get("nnUNet_def_n_proc", "8")
    return max(1, min(int(wanted), os.cpu_count() or 1))


def parallel_map(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    processes: int = 1,
    description: str = "",
    progress: bool = True,
    expected_errors: tuple[type[Exception], ...] = (UserError,),
) -> Iterator[Outcome[Item, Result]]:
    """Calls ``function`` on every item and yields the outcomes in the order of the items.

    Results are handed out as soon as their turn comes and only a few items per process are under way at a time, so
    memory does not grow with the number of items.

    Args:
        function: A function at module level (it travels to spawned processes), as are the items and results.
        items: What to work on.
        processes: With 1, everything runs in this process.
        description: Text of the progress bar.
        progress: Whether to show a progress bar.
        expected_errors: Exceptions that mean "this item is bad"; they become `Outcome.error`. Others are defects and
            propagate.

    Raises:
        UserError: A worker process died, as it does when memory runs out.
    """
    from tqdm import tqdm

    job = _Job(function, expected_errors)
    outcomes: Iterable[tuple[Any, str | None]]
    outcomes = map(job, items) if processes <= 1 or len(items) <= 1 else _in_processes(job, items, processes)
    bar = tqdm(total=len(items), desc=description, disable=not progress, unit="case")
    with bar:
        for item, (result, error) in zip(items, outcomes, strict=True):
            bar.update()
            yield Outcome(item, result, error)


@dataclass(frozen=True)
class _Job(Generic[Item, Result]):
    function: Callable[[Item], Result]
    expected_errors: tuple[type[Exception], ...]

    def __call__(self, item: Item) -> tuple[Result | None, str | None]:
        try:
            return self.function(item), None
        except self.expected_errors as error:
            return None, str(error) or type(error).__name__
        except OSError as error:
            if (sentence := disk_error(error)) is None:
                raise
            return None, sentence


def _ignore_interrupts() -> None:
    """Ctrl-C reaches every process: at work a worker tidies up and reports it, idle it would print a traceback."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _interruptible(job: _Job[Item, Result], item: Item) -> tuple[Result | None, str | None]:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return job(item)
    finally:
        _ignore_interrupts()


def _in_processes(job: _Job[Item, Result], items: Sequence[Item], processes: int) -> Iterator[tuple[Any, str | None]]:
    # Spawned, as nnU-Net does: forking a process that has started torch's threads can deadlock.
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(min(processes, len(items)), mp_context=context, initializer=_ignore_interrupts)
    try:
        waiting = iter(enumerate(items))
        running: dict[Future[tuple[Any, str | None]], int] = {}
        finished: dict[int, tuple[Any, str | None]] = {}
        for turn in range(len(items)):
            while turn not in finished:
                while len(running) + len(finished) < 4 * processes and (entry := next(waiting, None)) is not None:
                    running[executor.submit(_interruptible, job, entry[1])] = entry[0]
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    finished[running.pop(future)] = future.result()
            yield finished.pop(turn)
    except BrokenProcessPool:
        raise UserError(
            "A worker process died, most likely because memory ran out; run the command again with a smaller -np."
        ) from None
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
