"""One function over many cases: several processes, a progress bar, and a bad case that stops nobody else."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, TypeVar

from nnunetv2_ext.utilities.errors import UserError, disk_error
from nnunetv2_ext.utilities.executors import ThisProcess, WorkerDiedError, WorkerProcesses

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Outcome(Generic[Item, Result]):
    """What became of one item: a result, or the reason why there is none.

    Attributes:
        item: The item.
        result: What the function returned.
        error: Why there is no result.
        lost: Whether that is because memory ran out, or the process died that worked on it.
    """

    item: Item
    result: Result | None = None
    error: str | None = None
    lost: bool = False


def default_processes() -> int:
    """Number of processes where ``-np`` is not given: nnU-Net's ``nnUNet_def_n_proc``, else 8, at most the CPUs."""
    wanted = os.environ.get("nnUNet_def_n_proc", "8")
    return max(1, min(int(wanted), os.cpu_count() or 1))


def make_workers(processes: int) -> Executor:
    """An executor of so many worker processes; 0 works in this process, where a library that crashes ends all."""
    return WorkerProcesses(processes) if processes > 0 else ThisProcess()


def parallel_map(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    processes: int = 0,
    description: str = "",
    progress: bool = True,
    expected_errors: tuple[type[Exception], ...] = (UserError,),
    make_executor: Callable[[int], Executor] = make_workers,
) -> Iterator[Outcome[Item, Result]]:
    """Calls ``function`` on every item and yields the outcomes in the order of the items.

    Results are handed out as soon as their turn comes and only a few items per process are under way at a time, so
    memory does not grow with the number of items.

    Args:
        function: A function at module level (it travels to spawned processes), as are the items and results.
        items: What to work on; their text (`str`) names them where a worker dies.
        processes: With 0, everything runs in this process.
        description: Text of the progress bar.
        progress: Whether to show a progress bar.
        expected_errors: Exceptions that mean "this item is bad"; they become `Outcome.error`, as do the ends of memory
            and of a worker process. Others are defects and propagate.
        make_executor: Makes what runs the calls, of so many processes.
    """
    from tqdm import tqdm

    job = _Job(function, expected_errors)
    executor = make_executor(min(processes, len(items)))
    submitted = (executor.submit(job, item) for item in items)
    try:
        ahead = deque(islice(submitted, 4 * processes or 1))
        with tqdm(total=len(items), desc=description, disable=not progress, unit="case") as bar:
            for item in items:
                try:
                    outcome = Outcome(item, *ahead.popleft().result())
                except WorkerDiedError as death:
                    outcome = Outcome(item, error=f"The process that worked on {item} {death}.", lost=True)
                except MemoryError:
                    outcome = Outcome(item, error=f"Memory ran out at {item}; a smaller -np needs less.", lost=True)
                bar.update()
                yield outcome
                ahead.extend(islice(submitted, 1))
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


@dataclass(frozen=True)
class _Job(Generic[Item, Result]):
    function: Callable[[Item], Result]
    expected_errors: tuple[type[Exception], ...]

    def __call__(self, item: Item) -> tuple[Any, str | None]:
        try:
            return self.function(item), None
        except self.expected_errors as error:
            return None, str(error) or type(error).__name__
        except OSError as error:
            if (sentence := disk_error(error)) is None:
                raise
            return None, sentence
