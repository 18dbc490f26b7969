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
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from nnunetv2_ext.utilities.errors import UserError, disk_error

_logger = logging.getLogger(__name__)

Case = TypeVar("Case")
Prepared = TypeVar("Prepared")
Computed = TypeVar("Computed")


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
    run = _Run(compute, finish, progress)
    before = ThreadPoolExecutor(preparing_workers, "preparing") if preparing_workers else None
    after = ThreadPoolExecutor(finishing_workers, "finishing") if finishing_workers else None
    ahead: deque[tuple[Case, Future[Prepared]]] = deque()
    behind: deque[Future[None]] = deque()

    def advance() -> None:
        computed = run.compute(*ahead.popleft())
        if computed is not None:
            while len(behind) > finishing_workers:
                behind.popleft().result()
            behind.append(_submit(after, run.finish, *computed))

    try:
        for case in cases:
            ahead.append((case, _submit(before, prepare, case)))
            if len(ahead) > preparing_workers:
                advance()
        while ahead:
            advance()
        for finished in behind:
            finished.result()
    finally:
        for pool in (before, after):
            if pool is not None:
                pool.shutdown(wait=True, cancel_futures=True)
    return run.outcome


class _Run(Generic[Case, Prepared, Computed]):
    """Keeps the outcome, which threads of the last stage and the calling thread both write to."""

    def __init__(
        self,
        compute: Callable[[Case, Prepared], Computed],
        finish: Callable[[Case, Computed], None],
        progress: Callable[[], object] | None,
    ) -> None:
        self.outcome: Outcome[Case] = Outcome()
        self._compute = compute
        self._finish = finish
        self._progress = progress
        self._lock = threading.Lock()

    def compute(self, case: Case, prepared: Future[Prepared]) -> tuple[Case, Computed] | None:
        """Waits for the first stage of a case and runs the second; None where either failed."""
        error = prepared.exception()
        if error is not None:
            self.failed(case, "preparing", error)
            return None
        try:
            return case, self._compute(case, prepared.result())
        except Exception as problem:
            self.failed(case, "computing", problem)
            return None

    def finish(self, case: Case, computed: Computed) -> None:
        try:
            self._finish(case, computed)
        except Exception as error:
            self.failed(case, "finishing", error)
            return
        with self._lock:
            self.outcome.done.append(case)
            if self._progress:
                self._progress()

    def failed(self, case: Case, stage: str, error: BaseException) -> None:
        _logger.debug("Traceback of a failed case:", exc_info=error)
        with self._lock:
            self.outcome.failures.append(Failure(case, stage, _reason(error)))
            if self._progress:
                self._progress()


def _reason(error: BaseException) -> str:
    """An error as one line: a user error speaks for itself, others are named by their type."""
    if isinstance(error, OSError) and (sentence := disk_error(error)):
        return sentence
    text = " ".join(str(error).split())
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"


def _submit(pool: ThreadPoolExecutor | None, function: Callable, *arguments: object) -> Future:
    """Hands work to a pool, or does it at once where there is none."""
    if pool is not None:
        return pool.submit(function, *arguments)
    future: Future = Future()
    try:
        future.set_result(function(*arguments))
    except Exception as error:
        future.set_exception(error)
    return future
