"""The processes that nnU-Net starts for a training: they end with it, and it says how one of them died."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.util import register_after_fork
from types import TracebackType
from typing import Any

from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.executors import describe_exit

_SECONDS_UNTIL_GONE = 5


@contextmanager
def workers_looked_after(trainer: Any) -> Iterator[None]:
    """Ends the workers of a trainer with its training, also when that is killed, and says what killed one of them.

    nnU-Net's loaders would work on for ever, and say of a death neither whose nor of what.

    Raises:
        UserError: A worker was killed.
    """
    register_after_fork(workers_looked_after, _enter_worker)
    show, deaths = threading.excepthook, []

    def note(arguments: Any) -> None:
        deaths.extend(_deaths(arguments.exc_traceback))
        if not deaths:
            show(arguments)

    threading.excepthook = note
    try:
        yield
    except RuntimeError as error:
        deaths += _deaths(error.__traceback__)
        if not deaths:
            raise
        raise UserError(
            f"A worker process of the training {describe_exit(deaths[0])}; run the command again with --c to go on "
            "from the last checkpoint."
        ) from error
    finally:
        # Where training ends early, nnU-Net leaves its loaders to complain about each other at exit.
        for loader in (trainer.dataloader_train, trainer.dataloader_val):
            if hasattr(loader, "_finish"):
                loader._finish()
        threading.excepthook = show


def _enter_worker(_: object) -> None:
    # The command's own handlers would let a worker tidy up, and so wait for a queue that nobody reads any more.
    for number in {"SIGINT", "SIGTERM", "SIGHUP"} & set(dir(signal)):
        if callable(signal.getsignal(getattr(signal, number))):
            default = signal.default_int_handler if number == "SIGINT" else signal.SIG_DFL
            signal.signal(getattr(signal, number), default)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        # Not in order: what a loader still has to hand over, nobody takes.
        os._exit(1)


def _deaths(error: TracebackType | None) -> list[int]:
    """Exit codes of killed processes in the list of workers where an error was raised, as nnU-Net calls it."""
    lists = [frame.f_locals.get("worker_list", ()) for frame, _ in traceback.walk_tb(error)]
    workers = {worker for workers in lists for worker in workers}
    if workers:
        # A connection breaks shortly before its process is gone.
        wait([worker.sentinel for worker in workers], _SECONDS_UNTIL_GONE)
    for worker in workers:
        worker.join(0.1)
    # SIGTERM comes from nnU-Net itself, which ends the other workers.
    return [worker.exitcode for worker in workers if worker.exitcode not in (None, 0, -signal.SIGTERM)]
