"""Sums over the ranks of distributed training."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributed import ProcessGroup


def sum_over_ranks(sums: Tensor, group: ProcessGroup | None = None) -> int:
    """Adds up the sums of all ranks in place; returns the number of ranks.

    Without an initialised process group there is one rank and nothing to do.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return 1
    world_size = torch.distributed.get_world_size(group)
    if world_size > 1:
        torch.distributed.all_reduce(sums, group=group)
    return world_size
