"""One rank of torch's distributed training: joins the group once, trains on the right device, and leaves."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as nnunet_module
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from nnunetv2_ext.cluster.meeting import Meeting
from nnunetv2_ext.cluster.ranks import Ranks
from nnunetv2_ext.training.stopping import GO_ON_LATER
from nnunetv2_ext.utilities.errors import UserError


def device_of(ranks: Ranks, kind: str) -> str:
    """The device of a rank.

    Args:
        ranks: Which one.
        kind: ``"cuda"`` or ``"cpu"``.

    Raises:
        UserError: There is none for it.
    """
    if kind == "cpu":
        return kind
    if kind != "cuda":
        raise UserError(f"-device {kind} trains in one process, but this is one of {ranks.size}; use cuda or cpu.")
    found = torch.cuda.device_count()
    # srun --gpus-per-task=1 shows every rank one GPU, its own.
    index = 0 if found == 1 and ranks.nodes else ranks.local_rank
    if index >= found:
        raise UserError(
            f"Expected a GPU for LOCAL_RANK {ranks.local_rank}, but torch finds {found} here; start as many ranks as "
            "the machine has GPUs, or use -device cpu."
        )
    return f"cuda:{index}"


@contextmanager
def process_group(meeting: Meeting, device: torch.device) -> Iterator[None]:
    """Makes this process one of the group's, with nnU-Net's trainer on the device; a broken group is explained.

    Raises:
        UserError: Another rank is lost, or has ended.
        SystemExit: Another rank was asked to stop, where all stop by themselves.
    """
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(device)
        torch.set_num_threads(1)
    else:
        # Of nnU-Net's trainer, which takes all ranks for those of GPUs.
        warnings.filterwarnings("ignore", ".*GradScaler is enabled, but CUDA is not available")
        here = meeting.hosts.count(meeting.hosts[meeting.ranks.rank])
        torch.set_num_threads(max(1, multiprocessing.cpu_count() // here))
    try:
        distributed.init_process_group(
            "nccl" if on_gpu else "gloo",
            store=meeting.store("group"),
            rank=meeting.ranks.rank,
            world_size=meeting.ranks.size,
            timeout=meeting.timeout,
            device_id=device if on_gpu else None,
        )
        with _wrapped_on(device):
            yield
        meeting.wait_for_rank_0()
        distributed.destroy_process_group()
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        if _is_broken(error):
            _explain(meeting, error)
        with contextlib.suppress(distributed.DistNetworkError):
            meeting.say_end(getattr(error, "code", None), str(error))
        raise
    finally:
        if distributed.is_initialized() and not on_gpu:
            # NCCL would wait for those that are lost.
            distributed.destroy_process_group()


def _is_broken(error: BaseException) -> bool:
    """Whether the connection to another rank is."""
    return isinstance(error, distributed.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def _explain(meeting: Meeting, error: BaseException) -> None:
    lost, ended = meeting.roll_call()
    if any(code == GO_ON_LATER for code, _ in ended.values()):
        raise SystemExit(GO_ON_LATER) from error
    for rank, (_, sentence) in ended.items():
        raise UserError(f"The training ends with {meeting.name(rank)}, which has ended: {sentence}") from error
    if lost:
        names = ", ".join(map(meeting.name, lost))
        raise UserError(
            f"The training ends because it has lost {names} (killed, or the machine or its network is gone); see what "
            "was printed there, and run the command again with --c to go on from the last checkpoint."
        ) from error


@contextmanager
def _wrapped_on(device: torch.device) -> Iterator[None]:
    """Lets nnU-Net wrap its network for the device: it names the GPU of the rank's number, also on other nodes."""

    def wrap(network: torch.nn.Module, **_: Any) -> DistributedDataParallel:
        return DistributedDataParallel(network, device_ids=[device] if device.type == "cuda" else None)

    before = nnunet_module.DDP
    nnunet_module.DDP = wrap
    try:
        yield
    finally:
        nnunet_module.DDP = before


@contextmanager
def only_rank_0_speaks(ranks: Ranks) -> Iterator[None]:
    """Lets the other ranks print warnings and errors alone."""
    logger = logging.getLogger("nnunetv2_ext")
    level = logger.level
    with contextlib.ExitStack() as stack:
        if ranks.rank:
            silence = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
            stack.enter_context(contextlib.redirect_stdout(silence))
            logger.setLevel(max(level, logging.WARNING))
            stack.callback(logger.setLevel, level)
        yield
