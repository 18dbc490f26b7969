"""Schedules that reach their end when the time of a training is up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch

#: Of nnU-Net's polynomial schedule.
_EXPONENT = 0.9


class Training(Protocol):
    """What the schedule looks at."""

    optimizer: torch.optim.Optimizer
    num_epochs: int


class WithinTime:
    """Lowers the rates of a schedule where time passes faster than epochs do.

    With the fractions ``e`` of epochs and ``t`` of time that have passed, and ``t`` the larger one, rates are those of
    the schedule times ((1 - t) / (1 - e))^0.9: nnU-Net's schedule, initial rate times (1 - e)^0.9, becomes initial rate
    times (1 - t)^0.9.

    Args:
        schedule: Sets the rates of an epoch.
        training: Whose optimiser and number of epochs they are.
        time_passed: The fraction of the time that has passed.
    """

    def __init__(self, schedule: Any, training: Training, time_passed: Callable[[], float]) -> None:
        self._schedule = schedule
        self._training = training
        self._time_passed = time_passed

    def step(self, epoch: int) -> None:
        """Sets the rates of this moment of an epoch."""
        self._schedule.step(epoch)
        remaining, expected = 1 - min(self._time_passed(), 1.0), 1 - epoch / self._training.num_epochs
        if remaining < expected:
            for group in self._training.optimizer.param_groups:
                group["lr"] *= (remaining / expected) ** _EXPONENT
