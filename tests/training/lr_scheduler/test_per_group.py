from __future__ import annotations

import pytest
import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler

from nnunetv2_ext.architectures.stunet import STUNet
from nnunetv2_ext.training.lr_scheduler.per_group import GroupwisePolyLR, decayed_groups, set_rate


def network():
    return STUNet(1, 3, features_per_stage=[4, 6, 8], n_blocks_per_stage=1, strides=[[1] * 3, [2] * 3, [2] * 3])


def test_rates_fall_from_the_heads_down():
    net = network()
    optimizer = torch.optim.SGD(decayed_groups(net, 0.5), 0.1)
    schedule = GroupwisePolyLR(optimizer, 0.1, 10)
    schedule.step(4)
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    rates = {names[id(p)]: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert rates.keys() == set(names.values())
    now = 0.1 * (1 - 4 / 10) ** 0.9
    expected = {"decoder.seg_layers.": 1, "decoder.stages.1.": 1 / 2, "decoder.upsample_layers.1.": 1 / 2,
                "decoder.stages.0.": 1 / 4, "encoder.stages.2.": 1 / 8, "encoder.stages.1.": 1 / 16,
                "encoder.stages.0.": 1 / 32}  # fmt: skip
    for beginning, factor in expected.items():
        (found,) = {rate for name, rate in rates.items() if name.startswith(beginning)}
        assert found == pytest.approx(now * factor), beginning
    assert optimizer.param_groups[0]["lr"] == pytest.approx(now)
    set_rate(optimizer, 1.0)
    assert [group["lr"] for group in optimizer.param_groups] == [1, 1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32]


def test_without_decay_the_schedule_is_nnunets():
    net = network()
    ours, theirs = (torch.optim.SGD(groups, 0.1) for groups in (decayed_groups(net, 1), net.parameters()))
    for epoch in (0, 3, 9):
        for schedule in (GroupwisePolyLR(ours, 0.1, 10), PolyLRScheduler(theirs, 0.1, 10)):
            schedule.step(epoch)
        assert [g["lr"] for g in ours.param_groups] == [g["lr"] for g in theirs.param_groups]
