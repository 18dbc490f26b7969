"""nnU-Net's schedule for parameters whose rates differ by fixed factors."""

from __future__ import annotations

from typing import Any

from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from torch import nn
from torch.optim import Optimizer

from nnunetv2_ext.architectures.parts import stage_depths

SCALE = "lr_scale"
"""Entry of an optimiser's parameter group: its rate relative to that of the heads."""


def decayed_groups(network: nn.Module, layer_decay: float) -> list[dict[str, Any]]:
    """Parameter groups whose rate falls by a factor per stage, heads first; a single group for a factor of 1.

    Bao et al., "BEiT: BERT Pre-Training of Image Transformers", ICLR 2022, https://arxiv.org/abs/2106.08254, fine-tune
    so.

    Args:
        network: See `stage_depths`.
        layer_decay: The factor.
    """
    if layer_decay == 1:
        return [{"params": list(network.parameters())}]
    depths = stage_depths(network)
    groups: dict[int, list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        groups.setdefault(depths[name], []).append(parameter)
    return [{"params": groups[depth], SCALE: layer_decay**depth} for depth in sorted(groups)]


def set_rate(optimizer: Optimizer, rate: float) -> None:
    """Sets the rate of the heads, and those of other groups in proportion."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get(SCALE, 1.0)


class GroupwisePolyLR(PolyLRScheduler):
    """nnU-Net's polynomial schedule, kept in proportion from group to group."""

    def step(self, current_step: int | None = None) -> None:
        """Sets the rates of an epoch."""
        super().step(current_step)
        for group in self.optimizer.param_groups:
            group["lr"] *= group.get(SCALE, 1.0)
