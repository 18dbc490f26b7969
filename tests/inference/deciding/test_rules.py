"""Logits to labels, streamed and at once, against plain numpy."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunetv2_ext.inference.deciding.outputs import OutputMap
from nnunetv2_ext.inference.deciding.rules import (
    DecisionRule,
    Enlarged,
    LargestLogit,
    Masks,
    Painted,
    PaintedRegions,
    SeparateRegions,
    background_logits,
)
from nnunetv2_ext.inference.windows.ring import LogitSlab
from nnunetv2_ext.utilities.errors import UserError

SHAPES = st.tuples(*[st.integers(1, 6)] * 3)


def _slabs(logits, axis, thickness):
    size = logits.shape[axis + 1]
    return [
        LogitSlab(
            axis, start, min(start + thickness, size), logits.narrow(axis + 1, start, min(thickness, size - start))
        )
        for start in range(0, size, thickness)
    ]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 999), shape=SHAPES, axis=st.integers(0, 2), slab=st.integers(1, 4))
def test_masks_paint_what_plain_arrays_would(seed, shape, axis, slab):
    random = np.random.default_rng(seed)
    planes = random.random((3, *shape)) > random.random((3, 1, 1, 1))
    masks = Masks(shape, axis)
    for start in range(0, shape[axis], slab):
        part = np.take(planes, range(start, min(start + slab, shape[axis])), axis + 1)
        for channel in range(3):
            masks.add(channel, start, part[channel])
    expected = np.zeros(shape, int)
    for channel, value in ((2, 300), (0, 7)):
        expected[planes[channel]] = value
    painted = masks.paint(OutputMap("", {300: "x", 7: "y"}, ((2, 300), (0, 7))))
    np.testing.assert_array_equal(painted, expected)
    assert painted.dtype == np.uint16


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), shape=SHAPES, new=SHAPES, axis=st.integers(0, 2), slab=st.integers(1, 4))
def test_streamed_and_resampled_logits_give_the_same_decisions(seed, shape, new, axis, slab):
    logits = torch.randn(4, *shape, generator=torch.Generator().manual_seed(seed))
    resampled = torch.nn.functional.interpolate(logits[None], new, mode="trilinear", align_corners=False)[0].numpy()
    own = [OutputMap(str(channel), {1: "x"}, ((channel, 1),)) for channel in range(4)]
    merged = OutputMap("", {1: "a", 2: "b", 3: "c", 9: "d"}, tuple(enumerate((1, 2, 3, 9))))
    near = np.abs(resampled) < 1e-5

    winners = [rule(logits, resampled, axis, slab, new, partial(LargestLogit, 4)) for rule in (_streamed, _at_once)]
    top = np.sort(resampled, axis=0)
    tie = top[-1] - top[-2] < 1e-5
    for found in winners:
        for channel, output in enumerate(own):
            differs = found.paint(output) != (resampled.argmax(0) == channel)
            assert not (differs & ~tie).any()

    for how in (_streamed, _at_once):
        separate = how(logits, resampled, axis, slab, new, SeparateRegions)
        for channel, output in enumerate(own):
            assert not ((separate.paint(output) != (resampled[channel] > 0)) & ~near[channel]).any()
        painted = np.zeros(new, int)
        for channel, value in merged.paint:
            painted[resampled[channel] > 0] = value
        found = how(logits, resampled, axis, slab, new, partial(PaintedRegions, (1, 2, 3, 9)))
        assert not ((found.paint(merged) != painted) & ~near.any(0)).any()


def _streamed(logits, resampled, axis, slab, new, rule):
    return rule(logits.shape[1:], new).of(_slabs(logits, axis, slab))


def _at_once(logits, resampled, axis, slab, new, rule):
    return rule(logits.shape[1:], new).of_channels(resampled)


def test_nearest_enlargement_takes_the_voxel_that_contains_the_centre():
    labels = np.array([[[1, 2, 3]]], np.uint8)
    for size, expected in ((6, [1, 1, 2, 2, 3, 3]), (3, [1, 2, 3]), (2, [1, 3]), (1, [2]), (4, [1, 2, 2, 3])):
        found = Enlarged(Painted(labels), (2, 1, size)).paint(OutputMap("", {}, ()))
        np.testing.assert_array_equal(found, [[expected]] * 2)


RULES: dict[str, Callable[..., DecisionRule]] = {
    "softmax": partial(LargestLogit, 3),
    "painted regions": partial(PaintedRegions, (1, 2, 3)),
    "separate regions": SeparateRegions,
}


@pytest.mark.parametrize("kind", RULES)
def test_background_logits_become_background(kind):
    logits = background_logits(3, has_regions=kind != "softmax")[:, None, None, None].expand(-1, 2, 2, 2)
    decisions = RULES[kind]((2, 2, 2), (2, 2, 2)).of([LogitSlab(0, 0, 2, logits)])
    paint = tuple((channel, channel) for channel in range(1, 3)) if kind == "softmax" else ((0, 1), (1, 2))
    assert not decisions.paint(OutputMap("", {1: "a", 2: "b"}, paint)).any()


@pytest.mark.parametrize("kind", RULES)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_channels_that_are_not_finite_are_refused(kind, bad):
    rule = RULES[kind]((2, 2, 2), (2, 2, 2))
    with pytest.raises(UserError, match="NaN or infinity"):
        rule.of_channels([np.zeros((2, 2, 2), np.float32), np.full((2, 2, 2), bad, np.float32)])
