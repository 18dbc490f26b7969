"""The compiled loop against NumPy in float64, number by number."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

pytest.importorskip("numba", reason="numba does not know this Python yet")

from nnunetv2_ext.inference.deciding import kernel as decision_kernel
from nnunetv2_ext.inference.deciding.kernel import decide_tile


def check_rounding(values):
    rounded = values.copy()
    decision_kernel._round_to_float16(rounded)
    np.testing.assert_array_equal(rounded, values.astype(np.float16).astype(np.float64))


@settings(deadline=None)
@given(arrays(np.float64, st.integers(1, 40), elements=st.floats(-65504, 65504)))
def test_rounding_is_that_of_float16(values):
    check_rounding(values)


def test_rounding_of_every_middle_between_two_float16_numbers():
    numbers = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float64)
    middles = (numbers[1:] + numbers[:-1]) / 2
    for values in (middles, np.nextafter(middles, 0), np.nextafter(middles, 1e9), -middles, numbers, -numbers):
        check_rounding(values)


def by_hand(logits, classes, labels, lower, upper, weight, bar, raises, otherwise):
    """Voxel by voxel, in float64."""
    resampled = logits[classes].astype(np.float64)
    for axis in range(3):
        shape = [1, 1, 1, 1]
        shape[axis + 1] = -1
        share = weight[axis].astype(np.float64).reshape(shape)
        resampled = (1 - share) * resampled.take(lower[axis], axis + 1) + share * resampled.take(upper[axis], axis + 1)
    result = np.full(resampled.shape[1:], otherwise)
    for index in np.ndindex(result.shape):
        limit = bar
        for position, number in enumerate(classes):
            value = resampled[position][index]
            if value > limit:
                result[index] = labels[number]
                limit = value if raises else limit
    return result


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_labels_are_those_of_the_loop_written_out(data):
    shape = data.draw(st.tuples(st.integers(1, 6), st.integers(1, 4), st.integers(1, 4), st.integers(1, 9)))
    # Multiples of a quarter, and weights too: then float32 is exact, ties included.
    logits = data.draw(arrays(np.float32, shape, elements=st.integers(-8, 8).map(lambda value: value / 4)))
    lower, upper, weight = [], [], []
    for size in shape[1:]:
        outputs = data.draw(st.integers(1, 7))
        first = data.draw(arrays(np.uint32, outputs, elements=st.integers(0, size - 1)))
        share = data.draw(arrays(np.float32, outputs, elements=st.sampled_from([0.0, 0.25, 0.5, 0.75])))
        lower.append(first)
        upper.append(np.minimum(first + 1, size - 1).astype(np.uint32))
        weight.append(share)
    classes = np.array(sorted(data.draw(st.sets(st.integers(0, shape[0] - 1), min_size=1))), np.uint32)
    labels = np.array(data.draw(st.permutations(range(1, shape[0] + 1))), np.int32)
    bar, raises, otherwise = data.draw(st.sampled_from([(-np.inf, True, 0), (0.0, False, 77), (0.5, False, 0)]))
    given_axes = (tuple(lower), tuple(upper), tuple(weight))
    found = decide_tile(logits, classes, labels, *given_axes, bar, raises, otherwise, False)
    np.testing.assert_array_equal(found, by_hand(logits, classes, labels, *given_axes, bar, raises, otherwise))


def test_a_folder_that_cannot_be_written_is_no_obstacle(tmp_path):
    """As in a container: neither beside the module nor at home may numba keep compiled code."""
    code = (
        "from numba.core import caching\n"
        "caching.FunctionCache._impl_class._locator_classes = []\n"
        "import numpy as np\n"
        "from nnunetv2_ext.inference.deciding.kernel import decide_tile\n"
        "one, zero = np.ones(1, np.float32), np.zeros(1, np.uint32)\n"
        "axes = (zero,) * 3, (zero,) * 3, (one,) * 3\n"
        "logits = np.array([1, 3, 2], np.float32).reshape(3, 1, 1, 1)\n"
        "classes = np.arange(3, dtype=np.uint32)\n"
        "print(decide_tile(logits, classes, classes.astype(np.int32), *axes, -np.inf, True, 0, False).item())\n"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", cwd=tmp_path, timeout=300
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.strip() == "1"
