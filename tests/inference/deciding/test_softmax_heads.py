"""Heads side by side decide each for themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nnunetv2_ext.inference.deciding.resample import resample_argmax
from nnunetv2_ext.inference.deciding.softmax_heads import (
    LargestOfEachHead,
    WinnersOfHeads,
    background_of_heads,
    plan_head_outputs,
)
from nnunetv2_ext.inference.windows.ring import LogitSlab
from nnunetv2_ext.labels.partial_labels import PartialLabels, Source
from nnunetv2_ext.labels.source_heads import source_heads

HEADS = (2, 4, 3)


@pytest.mark.parametrize("whole", [False, True], ids=["slabs", "channels"])
def test_each_head_decides_as_if_it_were_alone(whole):
    torch.manual_seed(0)
    shape = (6, 8, 7)
    logits = torch.randn(sum(HEADS), *shape)
    new_shape = shape if whole else (9, 10, 11)
    rule = LargestOfEachHead(HEADS, shape, new_shape, None)
    if whole:
        decisions = rule.of_channels(channel.numpy() for channel in logits)
    else:
        decisions = rule.of(LogitSlab(0, z, z + 2, logits[:, z : z + 2]) for z in (0, 2, 4))
    assert isinstance(decisions, WinnersOfHeads)
    for head, own in zip(decisions.heads, logits.split(HEADS), strict=True):
        np.testing.assert_array_equal(head.winner, resample_argmax(own, new_shape))


def test_outputs_are_painted_from_the_head_that_they_are_of():
    regions = {"A/x": [1], "B/organ": [2, 3], "B/tumour": [3], "C/y": [4]}
    sources = {name: Source(tuple(c for c in regions if c.startswith(name)), ()) for name in "ABC"}
    plan = plan_head_outputs(source_heads(PartialLabels(regions, sources)))
    assert [output.name for output in plan.maps] == ["A", "B", "C"]
    # Channels: A 0 and 1, B 2 to 4, C 5 and 6.
    assert plan.maps[1].paint == ((3, 1), (4, 2))
    masks = plan_head_outputs(source_heads(PartialLabels(regions, sources)), kind="per_class", classes=["B/organ"])
    assert [output.paint for output in masks.maps] == [((3, 1), (4, 1))]
    winners = LargestOfEachHead((2, 3, 2), (1, 1, 1), (1, 1, 1), None)
    logits = torch.tensor([0.0, 1.0, 0.0, 1.0, 2.0, 3.0, 0.0])[:, None, None, None]
    decisions = winners.of([LogitSlab(0, 0, 1, logits)])
    assert [int(decisions.paint(output).item()) for output in (*plan.maps, *masks.maps)] == [1, 2, 0, 1]


def test_where_nothing_is_predicted_every_head_says_background():
    logits = background_of_heads(HEADS)
    assert [int(own.argmax()) for own in logits.split(HEADS)] == [0, 0, 0]
