"""Exponential moving average of a network's weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class WeightAverage:
    """Averages the parameters of a network over the steps of a training: ``a <- decay * a + (1 - decay) * w``.

    Begins with the parameters as they are. Buffers, such as running statistics, stay those of the network.

    Args:
        network: Its parameters are averaged.
        decay: Between 0 and 1; 0.999 averages over about the last 1000 steps.
    """

    def __init__(self, network: nn.Module, decay: float):
        self._parameters = {name: parameter.detach() for name, parameter in network.named_parameters()}
        # The averages; while these are in the network, what they replace.
        self._others = {name: parameter.clone() for name, parameter in self._parameters.items()}
        self._average = get_ema_multi_avg_fn(decay)
        self._is_in_network = False

    def update(self) -> None:
        """Takes in the weights after a step."""
        self._average(list(self._others.values()), list(self._parameters.values()), 1)

    @contextmanager
    def in_network(self) -> Iterator[dict[str, Tensor]]:
        """Puts the averages into the network; yields the weights that train, which are back afterwards."""
        if self._is_in_network:
            yield self._others
            return
        self.exchange()
        try:
            yield self._others
        finally:
            self.exchange()

    @torch.no_grad()
    def exchange(self) -> None:
        """Puts the averages into the network, or back what they replaced."""
        self._is_in_network = not self._is_in_network
        for name, parameter in self._parameters.items():
            kept = parameter.clone()
            parameter.copy_(self._others[name])
            self._others[name].copy_(kept)
