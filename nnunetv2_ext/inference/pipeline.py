"""Three stages over many cases at once: preparing, computing, finishing.

Reading and resampling (SimpleITK, SciPy), the network (torch) and compression (zlib) all release Python's interpreter
lock while they work, so threads overlap them without copying images between processes, and there is no worker process
that the system could kill unnoticed. Queues are bounded: no stage runs ahead by more than its workers plus one case.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from nnunetv2_ext.utilities.errors import UserError, disk_error
from nnunetv2_ext.utilities.executors import ThisProcess

_logger = logging.getLogger(__name__)

Case = TypeVar("Case")
Prepared = TypeVar("Prepared")
Computed = TypeVar("Computed")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Failure(Generic[Case]):
    """A case that could not be predicted.

    Attributes:
        case: The case.
        stage: ``"preparing"``, ``"computing"`` or ``"finishing"``.
        reason: What went wrong, as one line. (The error itself would keep all arrays of its traceback alive.)
    """

    case: Case
    stage: str
    reason: str


@dataclass
class Outcome(Generic[Case]):
    """Which cases succeeded and which failed, each in the order in which that was known."""

    done: list[Case] = field(default_factory=list)
    failures: list[Failure[Case]] = field(default_factory=list)


def run_pipeline(
    cases: Iterable[Case],
    prepare: Callable[[Case], Prepared],
    compute: Callable[[Case, Prepared], Computed],
    finish: Callable[[Case, Computed], None],
    *,
    preparing_workers: int = 1,
    finishing_workers: int = 1,
    progress: Callable[[], object] | None = None,
) -> Outcome[Case]:
    """Takes every case through three stages; a case that fails does not stop the others.

    Args:
        cases: What to work on, in order.
        prepare: First stage, in ``preparing_workers`` threads.
        compute: Second stage, in the calling thread: the device works on one case at a time.
        finish: Third stage, in ``finishing_workers`` threads.
        preparing_workers: Threads of the first stage; 0 runs it in the calling thread.
        finishing_workers: Threads of the third stage; 0 runs it in the calling thread.
        progress: Called after each case, from one thread at a time.

    Returns:
        Which cases succeeded and which failed.

    Raises:
        KeyboardInterrupt: Passed on after cases that are not begun were dropped and the steps under way have ended.
    """
    outcome: Outcome[Case] = Outcome()
    lock = threading.Lock()

    def attempt(stage: str, function: Callable[..., Result], case: Case, *inputs: Any) -> list[Result]:
        """The result of a step; none where it failed, which ends the case."""
        try:
            return [function(case, *inputs)]
        except Exception as error:
            _logger.debug("Traceback of a failed case:", exc_info=error)
            failure = Failure(case, stage, _reason(error))
        end(outcome.failures, failure)
        return []

    def end(cases: list[Any], case: Any) -> None:
        with lock:
            cases.append(case)
            if progress:
                progress()

    def last_step(case: Case, computed: Computed) -> None:
        if attempt("finishing", finish, case, computed):
            end(outcome.done, case)

    with ExitStack() as pools:
        before, after = (_pool(pools, workers) for workers in (preparing_workers, finishing_workers))
        ahead: deque[tuple[Case, Future[list[Prepared]]]] = deque()
        behind: deque[Future[None]] = deque()

        def advance() -> None:
            case, preparing = ahead.popleft()
            results = [
                each for prepared in preparing.result() for each in attempt("computing", compute, case, prepared)
            ]
            del preparing  # what was prepared is not needed while the last steps of other cases end
            for computed in results:
                while len(behind) > finishing_workers:
                    behind.popleft().result()
                behind.append(after.submit(last_step, case, computed))

        for case in cases:
            ahead.append((case, before.submit(attempt, "preparing", prepare, case)))
            if len(ahead) > preparing_workers:
                advance()
        while ahead:
            advance()
        for finished in behind:
            finished.result()
    return outcome


def _pool(pools: ExitStack, workers: int) -> Executor:
    pool = ThreadPoolExecutor(workers) if workers else ThisProcess()
    pools.callback(pool.shutdown, wait=True, cancel_futures=True)
    return pool


def _reason(error: BaseException) -> str:
    """An error as one line: a user error speaks for itself, others are named by their type."""
    if isinstance(error, OSError) and (sentence := disk_error(error)):
        return sentence
    text = " ".join(str(error).split())
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"
