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

from batchgenerators.dataloading.nondet_multi_threaded_augmenter import producer

from nnunetv2_ext.training.stopping import STOP_SIGNALS
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.executors import describe_exit
from nnunetv2_ext.utilities.memory import free_memory, free_shared_memory, gigabytes

_SECONDS_UNTIL_GONE = 5


@contextmanager
def workers_looked_after(trainer: Any) -> Iterator[None]:
    """Ends the workers of a trainer with its training, also when that is killed, and says what killed one of them.

    nnU-Net's loaders would work on for ever, and say of a death neither whose nor of what.

    Raises:
        UserError: A worker was killed.
    """
    register_after_fork(workers_looked_after, _enter_worker)
    show, sentences = threading.excepthook, []

    def note(arguments: Any) -> None:
        sentences.extend(_deaths(arguments.exc_traceback, trainer))
        if not sentences:
            show(arguments)

    threading.excepthook = note
    try:
        yield
    except RuntimeError as error:
        sentences += _deaths(error.__traceback__, trainer)
        if not sentences:
            raise
        raise UserError(
            f"{sentences[0]}; lower --num_workers (auto takes what the memory holds) or --batch_size, and run the "
            "command again with --c to go on from the last checkpoint."
        ) from error
    finally:
        finish_loaders(trainer)
        threading.excepthook = show


def finish_loaders(trainer: Any) -> None:
    """Ends the processes of a trainer's loaders, which nnU-Net only does at the end of a whole training."""
    for loader in (trainer.dataloader_train, trainer.dataloader_val):
        processes = list(getattr(loader, "_processes", ()))
        if hasattr(loader, "_finish"):
            loader._finish()
        for process in processes:
            if process.is_alive():
                process.kill()


def _enter_worker(_: object) -> None:
    # Batch systems send signals to all processes: loaders serve the running step, and end with the training.
    if getattr(multiprocessing.current_process(), "_target", None) is producer:
        for ignored in STOP_SIGNALS:
            signal.signal(ignored, signal.SIG_IGN)
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


def _deaths(error: TracebackType | None, trainer: Any) -> list[str]:
    """Sentences on killed processes in the list of workers where an error was raised, as nnU-Net calls it."""
    lists = [frame.f_locals.get("worker_list", ()) for frame, _ in traceback.walk_tb(error)]
    workers = {worker for workers in lists for worker in workers}
    if workers:
        # A connection breaks shortly before its process is gone.
        wait([worker.sentinel for worker in workers], _SECONDS_UNTIL_GONE)
    for worker in workers:
        worker.join(0.1)
    training = getattr(trainer.dataloader_train, "_processes", ())
    # SIGTERM comes from nnU-Net itself, which ends the other workers.
    return [
        f"A process that loads {'training' if worker in training else 'validation'} data {describe_death(exit_code)}"
        for worker in workers
        if (exit_code := worker.exitcode) not in (None, 0, -signal.SIGTERM)
    ]


def describe_death(exit_code: int) -> str:
    """How a process of a training ended, and how much memory there is."""
    how = describe_exit(exit_code)
    if exit_code < 0 and signal.Signals(-exit_code).name == "SIGBUS":
        how = "was ended by SIGBUS (most likely shared memory ran out)"
    return (
        f"{how}; {gigabytes(free_memory())} of memory and {gigabytes(free_shared_memory())} of shared memory are free "
        "now"
    )
