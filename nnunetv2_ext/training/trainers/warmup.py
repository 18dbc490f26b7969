"""Fine-tuning in three phases, for any trainer of this package."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from nnunetv2_ext.architectures.parts import Part, family_of_network
from nnunetv2_ext.training.lr_scheduler.per_group import set_rate
from nnunetv2_ext.training.lr_scheduler.warmup import Phase, WarmUpSchedule
from nnunetv2_ext.training.trainers.base import ExtTrainer


class WarmUpTrainer(ExtTrainer):
    """Trains the heads, then the whole network with a rising rate, then as nnU-Net does (see `WarmUpSchedule`).

    The class attribute ``num_epochs`` counts the epochs of the last phase, as in the paper; the trainer adds the two
    warm-up phases to it.

    Attributes:
        warmup_heads: Epochs of the first phase.
        warmup_network: Epochs of the second phase.
    """

    warmup_heads: int = 10
    warmup_network: int = 50
    schedule: WarmUpSchedule

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, Any]:
        """Builds the schedule from the hyper-parameters and the optimiser of the first phase."""
        self.schedule = WarmUpSchedule(
            heads_epochs=self.warmup_heads,
            network_epochs=self.warmup_network,
            standard_epochs=self.num_epochs,
            network_lr=self.initial_lr,
            standard_lr=self.initial_lr,
        )
        self.num_epochs = self.schedule.num_epochs
        self._phase: Phase | None = None
        self._enter_phase(self.schedule.phase(0))
        return self.optimizer, ScheduledRate(self)

    def on_train_epoch_start(self) -> None:
        """Enters the phase of this epoch where a new one begins."""
        self.prepare_optimizer_for_epoch(self.current_epoch)
        super().on_train_epoch_start()

    def prepare_optimizer_for_epoch(self, epoch: int) -> None:
        """Gives the optimiser the form that it has in ``epoch``."""
        self._enter_phase(self.schedule.phase(max(epoch, 0)))

    def frozen_part(self, epoch: int) -> Part:
        """Everything but the heads in the first phase; then what the options say."""
        return "backbone" if self.schedule.phase(epoch) == "heads" else super().frozen_part(epoch)

    def _enter_phase(self, phase: Phase) -> None:
        if phase == self._phase:
            return
        # The last two phases share one optimiser: its momentum carries over.
        keeps_optimizer = {phase, self._phase} == {"network", "standard"}
        self._phase = phase
        if keeps_optimizer:
            return
        if phase == "heads":
            self.optimizer = torch.optim.AdamW(
                head_parameters(self.bare_network),
                lr=self.schedule.heads_lr,
                weight_decay=self.weight_decay,
                amsgrad=True,
            )
        else:
            self.optimizer = self.make_optimizer()


def head_parameters(network: nn.Module) -> list[nn.Parameter]:
    """The parameters of the segmentation heads."""
    heads = family_of_network(network).heads
    return [parameter for name, parameter in network.named_parameters() if name.startswith(heads)]


class ScheduledRate:
    """The part of a learning-rate scheduler that nnU-Net calls: sets the rate of an epoch."""

    def __init__(self, trainer: WarmUpTrainer):
        self._trainer = trainer

    def step(self, epoch: int) -> None:
        """Sets the learning rate of ``epoch`` in the optimiser that is in use."""
        set_rate(self._trainer.optimizer, self._trainer.schedule.learning_rate(epoch))
