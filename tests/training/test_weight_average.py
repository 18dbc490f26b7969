from __future__ import annotations

import pytest
import torch
from torch import nn

from nnunetv2_ext.training.weight_average import WeightAverage


def test_three_steps_average_as_the_formula_says():
    torch.manual_seed(0)
    linear, decay = nn.Linear(3, 2), 0.9
    network = nn.Sequential(linear, nn.BatchNorm1d(2))
    average = WeightAverage(network, decay)
    course = [linear.weight.detach().double().clone()]
    for _ in range(3):
        with torch.no_grad():
            linear.weight.add_(torch.randn(2, 3))
        course.append(linear.weight.detach().double().clone())
        average.update()
    expected = decay**3 * course[0] + (1 - decay) * (decay**2 * course[1] + decay * course[2] + course[3])
    last = linear.weight.detach().clone()
    with average.in_network() as training:
        torch.testing.assert_close(linear.weight.double(), expected, rtol=1e-6, atol=1e-6)
        assert torch.equal(training["0.weight"], last)
        with average.in_network():
            torch.testing.assert_close(linear.weight.double(), expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(linear.weight, last)


def test_the_weights_come_back_after_a_failure():
    network = nn.Linear(1, 1)
    average = WeightAverage(network, 0.5)
    with torch.no_grad():
        network.weight.fill_(7)
    with pytest.raises(KeyboardInterrupt), average.in_network():
        raise KeyboardInterrupt
    assert network.weight.item() == 7
