"""What predicts one window: folds, and the flips that test-time augmentation averages."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Sequence
from itertools import combinations

import torch
from jaxtyping import Float
from torch import Tensor, nn

_COMPILE_VARIABLE = "nnUNet_compile"
"""nnU-Net's switch for torch.compile, ``1`` or ``true``; in prediction it is off by default."""


class WindowNetwork(nn.Module):
    """What predicts one window: the mean over folds and mirrorings, as nnU-Net averages them (logits).

    Args:
        networks: One per fold.
        mirror_axes: Spatial axes (0 is the first after the channels) whose flips are averaged; None for no flips.
        dtype: Type in which folds and flips are added up; by default the one that the networks answer in, as nnU-Net.
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        mirror_axes: Sequence[int] | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        axes = [axis + 2 for axis in mirror_axes or ()]
        # In nnU-Net's order: sums are rounded, so that another order gives another last digit.
        self.flips = [flip for number in range(len(axes) + 1) for flip in combinations(axes, number)]
        self.dtype = dtype
        self._compile_where_asked()

    def forward(self, window: Float[Tensor, "batch channels *patch"]) -> Float[Tensor, "batch classes *patch"]:
        """Logits of a batch of windows."""
        total: Tensor | None = None
        for network in self.networks:
            for flip in self.flips:
                logits = network(window.flip(flip)).flip(flip) if flip else network(window)
                logits = logits.to(self.dtype or logits.dtype)
                total = logits if total is None else total.add_(logits)
        assert total is not None
        passes = len(self.networks) * len(self.flips)
        return total / passes if passes > 1 else total

    def _compile_where_asked(self) -> None:
        if os.environ.get(_COMPILE_VARIABLE, "").lower() in ("true", "1", "t"):
            for network in self.networks:
                network.compile()


def moved(network: Callable[[Tensor], Tensor], device: torch.device) -> Callable[[Tensor], Tensor]:
    """A network on a device: itself where it is there already, else a copy, so that other users keep theirs."""
    if not isinstance(network, nn.Module):
        return network
    here = torch.empty(0, device=device).device  # with its number
    tensors = [*network.parameters(), *network.buffers()]
    if all(tensor.device == here for tensor in tensors):
        return network
    there = {
        id(tensor): nn.Parameter(tensor.to(here), requires_grad=False)
        if isinstance(tensor, nn.Parameter)
        else tensor.to(here)
        for tensor in tensors
    }
    copied: nn.Module = copy.deepcopy(network, dict(there))
    if isinstance(copied, WindowNetwork):
        copied._compile_where_asked()
    return copied
