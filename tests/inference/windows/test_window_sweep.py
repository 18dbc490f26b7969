from __future__ import annotations

import weakref
from itertools import product

import pytest
import torch

from nnunetv2_ext.inference.windows import window_sweep
from nnunetv2_ext.inference.windows.sliding_window import WindowPlan
from nnunetv2_ext.inference.windows.window_sweep import sweep

CLASSES = 3


def plan_of(shape, size, starts):
    return WindowPlan(shape, tuple(slice(0, extent) for extent in shape), size, starts, 0)


PLANS = {
    "a quarter shared, last window moved": plan_of((20, 17, 26), (8, 8, 8), ([0, 6, 12], [0, 6, 9], [0, 6, 12, 18])),
    "nearly the same window twice": plan_of((9, 8, 22), (8, 8, 8), ([0, 1], [0], [0, 6, 12, 14])),
    "half shared": plan_of((14, 12, 10), (6, 4, 4), ([0, 3, 6, 8], [0, 2, 4, 6, 8], [0, 2, 4, 6])),
    "three quarters shared": plan_of((16, 14, 8), (8, 8, 8), ([0, 2, 4, 6, 8], [0, 2, 4, 6], [0])),
    "nothing shared": plan_of((8, 4, 12), (4, 4, 4), ([0, 4], [0], [0, 4, 8])),
    "one window": plan_of((4, 5, 6), (4, 5, 6), ([0], [0], [0])),
}


def logits_at(position, plan):
    generator = torch.Generator().manual_seed(hash(position) % 1000)
    return torch.randn(CLASSES, *plan.patch_size, generator=generator)


def summed_in_float64(plan, weights):
    sums = torch.zeros(CLASSES, *plan.padded_shape, dtype=torch.float64)
    for position in product(*plan.starts):
        where = tuple(slice(start, start + size) for start, size in zip(position, plan.patch_size, strict=True))
        sums[(slice(None), *where)] += logits_at(position, plan).double() * weights
    return sums


@pytest.mark.parametrize("name", PLANS)
def test_sums_are_those_of_one_buffer(name):
    plan = PLANS[name]
    weights = torch.rand(plan.patch_size) + 0.1
    found = torch.full((CLASSES, *plan.padded_shape), torch.nan)
    predicted = []

    def predict(position):
        predicted.append(position)
        return logits_at(position, plan)

    for box in sweep(predict, plan, weights):
        assert found[(slice(None), *box.where)].isnan().all(), "a voxel was handed on twice"
        found[(slice(None), *box.where)] = box.sums
    torch.testing.assert_close(found.double(), summed_in_float64(plan, weights), rtol=1e-5, atol=1e-5)
    assert sorted(predicted) == sorted(product(*plan.starts))


def test_planes_are_swept_along_the_axis_of_a_long_scan():
    starts = [*range(0, 100, 6), 100]
    plan = plan_of((14, 108, 14), (8, 8, 8), ([0, 6], starts, [0, 6]))
    boxes = sweep(lambda position: logits_at(position, plan), plan, torch.ones(8, 8, 8))
    first_planes = [box.where[1].start for box in boxes]
    assert first_planes == sorted(first_planes)


@pytest.mark.parametrize("planes", [5, 20])
def test_what_is_kept_does_not_grow_with_the_scan(planes, monkeypatch):
    starts = [6 * number for number in range(planes)]
    plan = plan_of((starts[-1] + 8, 14, 14), (8, 8, 8), (starts, [0, 6], [0, 6]))
    copies = []
    finish = window_sweep._finish

    def remember(*arguments):
        finished, kept = finish(*arguments)
        copies.extend([] if kept is None else [weakref.ref(kept)])
        return finished, kept

    monkeypatch.setattr(window_sweep, "_finish", remember)
    largest = 0
    for _ in sweep(lambda position: logits_at(position, plan), plan, torch.ones(8, 8, 8)):
        alive = [copy for reference in copies if (copy := reference()) is not None]
        largest = max(largest, sum(copy[0].numel() for copy in alive))
        del alive
    # Two planes of the scan, two rows of a window's depth, two columns of a window.
    assert 0 < largest <= 2 * 14 * 14 + 8 * 2 * 14 + 8 * 8 * 2
