from __future__ import annotations

import pytest
import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler

from nnunetv2_ext.training.lr_scheduler.within_time import WithinTime


class Training:
    num_epochs = 100

    def __init__(self):
        parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
        self.optimizer: torch.optim.Optimizer = torch.optim.SGD([{"params": [each]} for each in parameters], lr=0.01)
        self.passed = 0.0
        self.schedule = WithinTime(PolyLRScheduler(self.optimizer, 0.01, 100), self, lambda: self.passed)

    def rates(self, epoch, passed):
        self.passed = passed
        self.schedule.step(epoch)
        return [group["lr"] for group in self.optimizer.param_groups]


def test_rates_follow_the_fraction_of_time_that_has_passed():
    training = Training()
    for epoch, passed in ((0, 0), (1, 0.25), (2, 0.5), (2, 0.75), (3, 1), (3, 1.2)):
        expected = 0.01 * (1 - min(passed, 1)) ** 0.9
        assert training.rates(epoch, passed) == pytest.approx([expected] * 2)


def test_epochs_that_pass_faster_than_time_keep_their_rates():
    training = Training()
    assert training.rates(50, 0.1) == pytest.approx([0.01 * 0.5**0.9] * 2)
    # In any order, and twice.
    assert training.rates(10, 0.1) == training.rates(10, 0.1) == pytest.approx([0.01 * 0.9**0.9] * 2)
