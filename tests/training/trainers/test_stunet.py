from __future__ import annotations

import pickle

import pytest
import torch
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

from nnunetv2_ext.architectures.planned import STUNetFromPlans
from nnunetv2_ext.architectures.stunet import STUNET_SIZES
from nnunetv2_ext.training.trainers import stunet

VARIANTS = {
    "": (1e-2, 1000),
    "_ft": (1e-3, 1000),
    "_ft_warmup": (1e-3, 1000),
    "_ep2k": (1e-2, 2000),
    "_ep4k": (1e-2, 4000),
}


def configuration(patch_size, strides):
    """What shapes an STU-Net in the configuration of a plans file."""
    arguments = {"strides": [list(stride) for stride in strides]}
    return {"patch_size": list(patch_size), "architecture": {"network_class_name": "x", "arch_kwargs": arguments}}


@pytest.mark.parametrize("size", STUNET_SIZES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_published_names_and_settings(size, variant):
    trainer = getattr(stunet, f"STUNetTrainer_{STUNET_SIZES[size].name}{variant}")
    assert trainer.architecture == STUNetFromPlans(size=size)
    assert (trainer.initial_lr, trainer.num_epochs) == VARIANTS[variant]


def test_every_trainer_is_found_by_nnunet_as_the_very_class_and_can_be_pickled():
    for name in ("STUNetTrainer", "STUNetTrainer_huge_ep4k"):
        found = recursive_find_trainer_class_by_name(name)
        assert found is getattr(stunet, name)
        assert pickle.loads(pickle.dumps(found)) is found  # noqa: S301


@pytest.mark.parametrize(
    ("patch", "strides", "expected_scales"),
    [
        ((32, 32, 32), [(1, 1, 1)] + [(2, 2, 2)] * 3, [1, 0.5, 0.25, 0.125, 0.125]),
        ((32, 64, 64), [(1, 1, 1)] + [(2, 2, 2)] * 7, [1, 0.5, 0.25, 0.125, 0.0625]),
        ((32, 32, 32), [(1, 1, 1)] + [(2, 2, 2)] * 5, [1, 0.5, 0.25, 0.125, 0.0625]),
        ((64, 64), [(1, 1)] + [(2, 2)] * 4, [1, 0.5, 0.25, 0.125, 0.0625]),
    ],
    ids=["fewer stages than six", "more stages than six", "bottleneck of one voxel", "2D"],
)
def test_targets_match_the_outputs(patch, strides, expected_scales):
    plan = configuration(patch, strides)
    entry = STUNetFromPlans(size="S")
    network = entry.build(plan, 1, 3, deep_supervision=True)
    outputs = network(torch.zeros(1, 1, *patch))
    scales = entry.deep_supervision_scales(plan)
    assert [tuple(output.shape[2:]) for output in outputs] == [
        tuple(int(size * factor) for size, factor in zip(patch, scale, strict=True)) for scale in scales
    ]
    assert [scale[-1] for scale in scales] == expected_scales


def test_departures_from_the_plans_are_noted():
    entry = STUNetFromPlans(size="S")
    assert entry.notes(configuration((128, 128, 128), [(1, 1, 1)] + [(2, 2, 2)] * 4 + [(1, 1, 2)])) == []
    (note,) = entry.notes(configuration((32, 32, 32), [(1, 1, 1)] + [(2, 2, 2)] * 5))
    assert "stage 5 has stride [1, 1, 1] instead of [2, 2, 2]" in note
