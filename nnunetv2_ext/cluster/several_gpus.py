"""One process per GPU of this machine: they begin and end together, and say in this one why."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from nnunetv2_ext.training.stopping import GO_ON_LATER, stop_signals_call
from nnunetv2_ext.training.workers import describe_death
from nnunetv2_ext.utilities.errors import UserError

Run = TypeVar("Run")


def train_on_gpus(gpus: int, train: Callable[[Run], None], run: Run) -> None:
    """Trains as the ranks of one machine; signals that ask for a stop are passed on to the processes.

    Args:
        gpus: How many.
        train: Called in each process, whose environment is that of a rank of torchrun; a function at module level.
        run: What it is called with.

    Raises:
        UserError: A process ended with one, or was killed.
        SystemExit: The training stopped before its end because of a signal.
    """
    from nnunetv2.run.run_training import find_free_network_port

    port = os.environ.get("MASTER_PORT") or str(find_free_network_port())
    sentences = multiprocessing.get_context("spawn").SimpleQueue()
    ranks = torch.multiprocessing.spawn(_run_rank, args=(gpus, port, train, run, sentences), nprocs=gpus, join=False)
    passed_on: list[signal.Signals] = []

    def pass_on(number: signal.Signals) -> None:
        passed_on.append(number)
        for process in ranks.processes:
            if process.is_alive():
                os.kill(process.pid, number)

    try:
        with stop_signals_call(pass_on):
            while not ranks.join():
                pass
    except torch.multiprocessing.ProcessRaisedException:
        if sentences.empty():
            raise
        raise UserError(sentences.get()) from None
    except torch.multiprocessing.ProcessExitedException as end:
        if end.exit_code == GO_ON_LATER or passed_on:
            raise SystemExit(GO_ON_LATER) from None
        raise UserError(
            f"The process of GPU {end.error_index} {describe_death(end.exit_code)}; run the command again with --c to "
            "go on from the last checkpoint."
        ) from None
    finally:
        for process in ranks.processes:
            process.terminate()


def _run_rank(rank: int, gpus: int, port: str, train: Callable[[Run], None], run: Run, sentences: Any) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(gpus), LOCAL_RANK=str(rank))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    try:
        train(run)
    except UserError as error:
        sentences.put(str(error))
        raise
