"""The fine-tuning schedule of MultiTalent: heads, whole network with a rising rate, then nnU-Net's own schedule.

Source: Ulrich et al., "MultiTalent: A Multi-dataset Approach to Medical Image Segmentation", MICCAI 2023, 2.2.5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Phase = Literal["heads", "network", "standard"]


@dataclass(frozen=True)
class WarmUpSchedule:
    """Learning rate and trainable part for every epoch of a fine-tuning; a pure function of the epoch.

    Because nothing is remembered between epochs, a resumed training continues exactly where it stopped.

    Attributes:
        heads_epochs: Epochs in which only the segmentation heads are trained.
        network_epochs: Epochs in which the whole network is trained with a linearly rising rate.
        standard_epochs: Epochs of the polynomial schedule that follows.
        heads_lr: Rate reached at the end of the heads phase.
        network_lr: Rate reached at the end of the network phase.
        standard_lr: First rate of the polynomial schedule.
        exponent: Exponent of the polynomial schedule.
    """

    heads_epochs: int = 10
    network_epochs: int = 50
    standard_epochs: int = 1000
    heads_lr: float = 5e-4
    network_lr: float = 1e-2
    standard_lr: float = 1e-2
    exponent: float = 0.9

    def __post_init__(self) -> None:
        if min(self.heads_epochs, self.network_epochs, self.standard_epochs) < 0 or self.num_epochs == 0:
            raise ValueError(f"The phases need at least one epoch in all and none with a negative number; got {self}.")

    @property
    def num_epochs(self) -> int:
        """Epochs of all three phases."""
        return self.heads_epochs + self.network_epochs + self.standard_epochs

    def phase(self, epoch: int) -> Phase:
        """The phase that an epoch (counted from 0) belongs to."""
        if epoch < self.heads_epochs:
            return "heads"
        return "network" if epoch < self.heads_epochs + self.network_epochs else "standard"

    def learning_rate(self, epoch: int) -> float:
        """The learning rate of an epoch (counted from 0).

        The warm-up rates rise from ``rate / n`` in the first to ``rate`` in the last of their ``n`` epochs, so that no
        epoch is spent at zero.
        """
        phase = self.phase(epoch)
        if phase == "heads":
            return self.heads_lr * (epoch + 1) / self.heads_epochs
        epoch -= self.heads_epochs
        if phase == "network":
            return self.network_lr * (epoch + 1) / self.network_epochs
        epoch -= self.network_epochs
        # The rate of the epoch after the last would be the root of a negative number; it is asked for by no one.
        return self.standard_lr * (1 - epoch / self.standard_epochs) ** self.exponent
