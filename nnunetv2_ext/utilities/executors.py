"""Where calls run: in worker processes that end with their parent and die alone, or in this process."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from multiprocessing.connection import Connection
from multiprocessing.pool import ExceptionWithTraceback  # type: ignore[attr-defined]
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from nnunetv2_ext.utilities.errors import UserError

Argument = TypeVar("Argument")
Result = TypeVar("Result")

_SECONDS_TO_TIDY_UP = 10
_NAME = "nnunetv2_ext worker "

_Calls = queue.SimpleQueue[bytes | None]


class WorkerDiedError(Exception):
    """The process that ran a call is gone; the message says how it ended."""


class ThisProcess(Executor):
    """Runs every call at once, in the calling thread."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Runs the call; the future that comes back is done."""
        future: Future[Any] = Future()
        try:
            future.set_result(function(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class WorkerProcesses(ThreadPoolExecutor):
    """Runs calls in processes, each led by a thread of this one.

    Python's own pool loses all calls when one kills its process, and does not tell which one it was; its workers wait
    for ever when their parent is killed. Here the other calls go on, and a worker ends as soon as the connection to
    its parent does. Processes are spawned, as nnU-Net does: forking one that has started torch's threads can deadlock.

    Args:
        processes: How many.
        calls_each: How many calls one process runs at a time, in threads; all of them are lost when it dies.
    """

    def __init__(self, processes: int, calls_each: int = 1) -> None:
        super().__init__(processes * calls_each)
        self._processes, self._calls_each = processes, calls_each
        self._workers: list[_Worker] = []
        self._lock = threading.Lock()
        self._ended = False

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Runs a function at module level in a worker; `WorkerDiedError` is the outcome where that does not survive."""
        return super().submit(self._run, (function, args, kwargs))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Ends the workers: at once with ``cancel_futures``, otherwise after the calls that were submitted."""
        super().shutdown(wait and not cancel_futures, cancel_futures=cancel_futures)
        with self._lock:
            self._ended = True
            workers = list(self._workers)
        for worker in workers:
            worker.process.terminate()
        for worker in workers:
            worker.process.join(_SECONDS_TO_TIDY_UP)
            worker.process.kill()
        super().shutdown(wait)

    def _run(self, call: tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]) -> Any:
        with self._lock:
            worker = self._least_busy()
            connection = worker.free.pop(0)
        try:
            connection.send(call)
            succeeded, result = connection.recv()
        except (EOFError, OSError):
            with self._lock:
                worker.process.join()
                self._workers = [other for other in self._workers if other is not worker]
            raise WorkerDiedError(describe_exit(worker.process.exitcode or 0)) from None
        with self._lock:
            worker.free.append(connection)
        if not succeeded:
            raise result
        return result

    def _least_busy(self) -> _Worker:
        """A worker at rest; else a new one; else, where there are enough, one that takes another call."""
        worker = max(self._workers, key=lambda worker: len(worker.free), default=None)
        if worker is None or (len(worker.free) < self._calls_each and len(self._workers) < self._processes):
            worker = self._start()
            self._workers.append(worker)
        return worker

    def _start(self) -> _Worker:
        if self._ended:
            raise WorkerDiedError("was not started")
        context = multiprocessing.get_context("spawn")
        number = min(set(range(self._processes)) - {worker.number for worker in self._workers})
        try:
            pipes = [context.Pipe() for _ in range(self._calls_each)]
            ours, theirs = ([pipe[end] for pipe in pipes] for end in (0, 1))
            # Several processes with several threads each would get in each other's way.
            arguments = theirs, self._processes > 1
            process = context.Process(target=_work, args=arguments, name=f"{_NAME}{number}", daemon=True)
            process.start()
        except OSError as error:
            raise WorkerDiedError(f"could not be started ({error.strerror}); fewer processes (-np) may do") from None
        # Only the worker holds its ends now, so that its death is the end of the connections.
        for connection in theirs:
            connection.close()
        return _Worker(number, process, ours)


def worker_number() -> int:
    """Which of its executor's workers this process is, counted from 0; who follows a dead one has its number."""
    _, named, number = multiprocessing.current_process().name.partition(_NAME)
    return int(number) if named else 0


def in_a_worker(function: Callable[[Argument], Result], argument: Argument, name: object) -> Result:
    """Calls a function at module level where a crash of a library costs the call and not the run: not in this process.

    Args:
        function: The function.
        argument: Its argument.
        name: What it works on, for the sentence about a crash.

    Raises:
        UserError: The process that ran the call died.
    """
    if multiprocessing.parent_process() is not None:
        return function(argument)
    try:
        result: Result = _spare_workers().submit(function, argument).result()
    except WorkerDiedError as death:
        raise UserError(f"The process that worked on {name} {death}.") from None
    return result


@cache
def _spare_workers() -> WorkerProcesses:
    return WorkerProcesses(os.cpu_count() or 1)


@dataclass
class _Worker:
    number: int
    process: BaseProcess
    free: list[Connection]


def describe_exit(exit_code: int) -> str:
    """How a process ended, for a sentence about it."""
    if exit_code >= 0:
        return f"ended with exit code {exit_code}"
    name = signal.Signals(-exit_code).name
    why = "most likely memory ran out; fewer processes need less" if name == "SIGKILL" else "a library crashed"
    return f"was ended by {name} ({why})"


def _work(connections: list[Connection], one_thread: bool) -> None:
    """What a worker does: one call after the other of each connection, until SIGTERM lets it tidy up."""
    if one_thread:
        os.environ.setdefault("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "1")
    # Ctrl-C reaches every process of a terminal; the parent ends its workers by SIGTERM.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    first, *others = [(connection, _Calls()) for connection in connections]
    for pair in (first, *others):
        threading.Thread(target=_receive, args=pair, daemon=True).start()
    for pair in others:
        threading.Thread(target=_answer, args=pair).start()
    try:
        _answer(*first)
    finally:
        for _, calls in others:
            calls.put(None)


def _answer(connection: Connection, calls: _Calls) -> None:
    while (message := calls.get()) is not None:
        try:
            function, args, kwargs = pickle.loads(message)  # noqa: S301  from the parent
            outcome = True, function(*args, **kwargs)
        except Exception as error:
            outcome = False, ExceptionWithTraceback(error, error.__traceback__)
        with contextlib.suppress(BrokenPipeError):
            connection.send(outcome)


def _receive(connection: Connection, calls: _Calls) -> None:
    """Takes calls while the worker is at work, so that the death of the parent is noticed at once."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            calls.put(connection.recv_bytes())
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_SECONDS_TO_TIDY_UP)
    os._exit(1)
