"""The coordinates of resampling against scipy, torch and nnU-Net."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from nnunetv2_ext.inference.deciding.axes import ResampledAxis, resampled_axes, separate_axis

sizes = st.integers(1, 40)


def dense(axis: ResampledAxis) -> np.ndarray:
    matrix = np.zeros((axis.new_size, axis.size + 1))
    rows = np.arange(axis.new_size)
    matrix[rows, axis.lower] += 1 - axis.weight
    matrix[rows, axis.lower + 1] += axis.weight
    assert not matrix[:, -1].any()
    return matrix[:, :-1]


@given(sizes, sizes)
def test_linear_is_torch_interpolate(size, new_size):
    signal = np.random.default_rng(size).normal(size=size)
    expected = torch.nn.functional.interpolate(torch.tensor(signal)[None, None], new_size, mode="linear")[0, 0]
    np.testing.assert_allclose(dense(ResampledAxis.linear(size, new_size)) @ signal, expected.numpy(), atol=1e-12)


@given(sizes, sizes)
def test_nearest_is_scipy_order_0(size, new_size):
    signal = np.arange(size, dtype=float)
    coordinates = float(size) / new_size * (np.arange(new_size) + 0.5) - 0.5
    expected = map_coordinates(signal, coordinates[None], order=0, mode="nearest")
    axis = ResampledAxis.nearest(size, new_size)
    np.testing.assert_array_equal(signal[axis.lower], expected)
    assert axis.taps == 1


@given(sizes, sizes, st.integers(1, 30), st.booleans())
def test_tiles_put_together_are_the_axis(size, new_size, wished, nearest):
    axis = (ResampledAxis.nearest if nearest else ResampledAxis.linear)(size, new_size)
    matrix = np.zeros((new_size, size))
    covered = np.zeros(new_size, dtype=int)
    for tile in axis.tiles(wished, 2, 16):
        assert tile.inputs.stop - tile.inputs.start <= 17
        matrix[tile.outputs, tile.inputs] = tile.weights
        covered[tile.outputs] += 1
        if tile.is_identity:
            np.testing.assert_array_equal(tile.weights, np.eye(len(tile.weights)))
    assert (covered == 1).all()
    np.testing.assert_allclose(matrix, dense(axis), atol=1e-7)


def test_an_unchanged_axis_is_copied():
    axis = ResampledAxis.linear(37, 37)
    assert axis.taps == 1
    assert all(tile.is_identity for tile in axis.tiles(20, 4, 16))


@given(sizes, sizes, st.data())
def test_part_reads_the_same_inputs(size, new_size, data):
    axis = ResampledAxis.linear(size, new_size)
    first = data.draw(st.integers(0, new_size - 1))
    last = data.draw(st.integers(first + 1, new_size))
    start, stop = int(axis.lower[first]), int(axis.upper[last - 1]) + 1
    part = axis.part(slice(start, stop), slice(first, last))
    np.testing.assert_array_equal(dense(part), dense(axis)[first:last, start:stop])


@pytest.mark.parametrize(
    ("current", "new", "force", "expected"),
    [
        ((5.0, 0.7, 0.7), (5.0, 1.0, 1.0), None, 0),
        ((1.0, 1.0, 1.0), (1.0, 5.0, 1.0), None, 1),
        ((1.5, 1.5, 1.5), (2.0, 0.8, 0.8), None, None),
        ((0.24, 1.25, 1.25), (1.0, 1.0, 1.0), None, None),
        ((5.0, 0.7, 0.7), (5.0, 1.0, 1.0), False, None),
        ((2.0, 1.0, 1.0), (2.0, 1.0, 1.0), True, 0),
    ],
)
def test_separate_axis(current, new, force, expected):
    assert separate_axis(current, new, force) == expected


@pytest.mark.parametrize("shapes", [((2, 3), (4, 5, 6)), ((2, 3, 0), (4, 5, 6)), ((2, 3, 4), (4, 0, 6))])
def test_wrong_shapes(shapes):
    with pytest.raises(ValueError, match="two shapes"):
        resampled_axes(*shapes)
