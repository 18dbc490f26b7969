"""The picture of predictions."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK

from nnunetv2_ext.demo.overlay import save_overlay
from nnunetv2_ext.utilities.errors import UserError


def write(array, path, spacing=(1.0, 1.0, 2.0)):
    image = SimpleITK.GetImageFromArray(array)
    image.SetSpacing(spacing)
    SimpleITK.WriteImage(image, str(path))
    return path


@pytest.fixture
def case(tmp_path):
    image = np.full((10, 20, 30), -1000, np.int16)
    image[2:8, 4:16, 5:25] = 40
    label = np.zeros(image.shape, np.uint8)
    label[5, 6:14, 8:14] = 1
    label[5, 6:14, 16:22] = 2
    return (
        write(image, tmp_path / "a_0000.nii.gz"),
        write(label, tmp_path / "reference.nii.gz"),
        write(np.zeros_like(label), tmp_path / "empty.nii.gz"),
    )


def test_reference_and_prediction_are_drawn_in_the_colours_of_the_classes(case, tmp_path):
    from matplotlib import pyplot

    image, reference, empty = case
    save_overlay([(image, reference, empty)], {"one": 1, "two": 2}, tmp_path / "overlay.png", "title")
    picture = pyplot.imread(tmp_path / "overlay.png")[..., :3]
    height = picture.shape[0]
    # Away from the legend at the bottom: six panels side by side, CT, reference, prediction, twice.
    panels = np.array_split(picture[height // 5 : -height // 6], 6, axis=1)
    coloured = [int((panel.max(axis=2) - panel.min(axis=2) > 0.2).sum()) for panel in panels]
    assert coloured[0] == coloured[2] == coloured[3] == coloured[5] == 0
    assert coloured[1] > 200
    assert coloured[4] > 20


def test_prediction_of_another_shape(case, tmp_path):
    image, reference, _ = case
    other = write(np.zeros((3, 3, 3), np.uint8), tmp_path / "other.nii.gz")
    with pytest.raises(UserError, match=r"prediction of shape \(10, 20, 30\)"):
        save_overlay([(image, reference, other)], {"one": 1}, tmp_path / "overlay.png", "title")
    assert not (tmp_path / "overlay.png").exists()
