from __future__ import annotations

import pytest
import torch
from torch import nn

from nnunetv2_ext.training.weight_average import WeightAverage


def test_three_steps_average_as_the_formula_says():
    torch.manual_seed(0)
    network, decay = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)), 0.9
    average = WeightAverage(network, decay)
    course = [network[0].weight.detach().double().clone()]
    for _ in range(3):
        with torch.no_grad():
            network[0].weight.add_(torch.randn(2, 3))
        course.append(network[0].weight.detach().double().clone())
        average.update()
    expected = decay**3 * course[0] + (1 - decay) * (decay**2 * course[1] + decay * course[2] + course[3])
    last = network[0].weight.detach().clone()
    with average.in_network() as training:
        torch.testing.assert_close(network[0].weight.double(), expected, rtol=1e-6, atol=1e-6)
        assert torch.equal(training["0.weight"], last)
        with average.in_network():
            torch.testing.assert_close(network[0].weight.double(), expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(network[0].weight, last)


def test_the_weights_come_back_after_a_failure():
    network = nn.Linear(1, 1)
    average = WeightAverage(network, 0.5)
    with torch.no_grad():
        network.weight.fill_(7)
    with pytest.raises(KeyboardInterrupt), average.in_network():
        raise KeyboardInterrupt
    assert network.weight.item() == 7
