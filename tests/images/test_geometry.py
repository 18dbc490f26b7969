"""Turning volumes to a standard orientation."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
import SimpleITK

from nnunetv2_ext.images.geometry import AxisTurn, Grid

DIRECTIONS = [
    np.diag(signs)[list(order)] for order in permutations(range(3)) for signs in product((1.0, -1.0), repeat=3)
]


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "PIR"])
def test_it_turns_as_simpleitk_does_and_back(orientation):
    for direction in DIRECTIONS:
        array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
        image = SimpleITK.GetImageFromArray(array)
        image.SetSpacing((1.0, 2.0, 3.0))
        image.SetDirection(direction.ravel().tolist())
        turn = AxisTurn.to(orientation, Grid.of(image))
        expected = SimpleITK.DICOMOrient(image, orientation)
        np.testing.assert_array_equal(turn.forward(array), SimpleITK.GetArrayFromImage(expected))
        assert turn.reorder((3.0, 2.0, 1.0)) == expected.GetSpacing()[::-1]
        np.testing.assert_array_equal(turn.back(turn.forward(array)), array)
        channels = np.stack([array, -array])
        np.testing.assert_array_equal(turn.back(turn.forward(channels)), channels)


def test_oblique_axes_count_as_the_closest_anatomical_ones():
    angle = np.deg2rad(30)
    direction = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    image = SimpleITK.GetImageFromArray(np.zeros((2, 3, 4), np.float32))
    image.SetDirection(direction.ravel().tolist())
    assert AxisTurn.to("LPS", Grid.of(image)) == AxisTurn((0, 1, 2), (False, False, False))
    assert AxisTurn.to("RAS", Grid.of(image)) == AxisTurn((0, 1, 2), (False, True, True))
