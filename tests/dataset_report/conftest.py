"""Tiny raw datasets of cases that are alike."""

from __future__ import annotations

import numpy as np
import pytest

LABELS = {"background": 0, "liver": 1, "kidney_left": 2, "kidney_right": 3}
SHAPE = (12, 16, 20)


@pytest.fixture
def usual_case():
    """``usual_case(seed)``: a liver and two kidneys (x grows to the patient's left) whose volumes and levels vary."""

    def make(seed):
        rng = np.random.default_rng(seed)
        label = np.zeros(SHAPE, np.uint8)
        label[2 : 8 + seed % 2, 2:10, 2:9] = 1
        label[3:6, 11 : 14 + seed % 2, 13:18] = 2
        label[3 : 6 + seed % 2, 11:14, 2:7] = 3
        # Of two cases with equal noise and organs the images would be taken for one.
        image = rng.normal(-900, 10 + 3 * seed, SHAPE)
        for value, level in ((1, 110), (2, 40), (3, 42)):
            inside = label == value
            image[inside] = rng.normal(level + rng.normal(0, 3), 5, inside.sum())
        return image.astype(np.int16), label

    return make


@pytest.fixture
def raw_dataset(make_raw_dataset, usual_case):
    """``raw_dataset({"case_3": (image, label)})``: Dataset005_Organs of eight cases, with some replaced."""

    def make(changed=None, labels=LABELS, **keywords):
        cases = {f"case_{number}": usual_case(number) for number in range(8)} | (changed or {})
        return make_raw_dataset("Dataset005_Organs", labels, cases, spacing=(3, 1.5, 1), **keywords)

    return make
