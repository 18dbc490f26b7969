"""Turning volumes to a standard orientation."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
import SimpleITK

from nnunetv2_ext.images.geometry import AxisTurn, Grid
from nnunetv2_ext.images.reading import read_volume, scan_of_array

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
        assert Grid.of(image).orientation == SimpleITK.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(
            image.GetDirection()
        )
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
    assert Grid.of(image).orientation == "LPS"
    assert AxisTurn.to("LPS", Grid.of(image)).changes_nothing
    assert AxisTurn.to("RAS", Grid.of(image)) == AxisTurn((0, 1, 2), (False, True, True))


def test_images_of_two_dimensions_arrays_and_pictures_have_no_orientation(tmp_path):
    assert Grid.of(SimpleITK.Image(4, 3, SimpleITK.sitkUInt8)).orientation is None
    assert scan_of_array(np.zeros((2, 3, 4)), (1, 1, 1)).grid.orientation is None
    for ending, expected in ((".tif", None), (".nrrd", "LPS")):
        file = tmp_path / f"stack{ending}"
        SimpleITK.WriteImage(SimpleITK.Image(4, 3, 2, SimpleITK.sitkUInt8), str(file))
        assert read_volume(file).grid.orientation == expected
