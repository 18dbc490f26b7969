import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunetv2_ext.dataset_conversion.checks import (
    check_image,
    check_label,
    check_values,
    label_statistics,
    replace_non_finite,
)
from nnunetv2_ext.dataset_conversion.findings import BadCaseError
from nnunetv2_ext.images.geometry import Grid
from nnunetv2_ext.images.volumes import Volume
from nnunetv2_ext.labels import LabelOrder

ROTATED = (0.0, 0.6, 0.8, 1.0, 0.0, 0.0, 0.0, 0.8, -0.6)
ORDER = LabelOrder(
    "order",
    {"kidney_left": 1, "kidney_right": 2, "lung_left": 3, "lung_right": 4, "femur_left": 5, "femur_right": 6},
    left_right_pairs=(("kidney_left", "kidney_right"), ("lung_left", "lung_right"), ("femur_left", "femur_right")),
)


def _volume(array, direction=(1, 0, 0, 0, 1, 0, 0, 0, 1)):
    return Volume(array, Grid(array.shape[::-1], (1.5, 2.0, 2.5), (-7.0, 3.0, 40.0), direction))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.sampled_from([(1, 0, 0, 0, 1, 0, 0, 0, 1), ROTATED]))
def test_statistics_equal_brute_force(seed, direction):
    array = np.random.default_rng(seed).integers(0, 5, (4, 5, 6)).astype(np.uint16)
    volume = _volume(array, direction)
    statistics = label_statistics(volume)
    for value in range(5):
        indices = np.argwhere(array == value)[:, ::-1]
        assert statistics.voxels.get(value, 0) == len(indices)
        if value and len(indices):
            points = np.reshape(direction, (3, 3)) @ np.diag((1.5, 2.0, 2.5)) @ indices.mean(0) + (-7.0, 3.0, 40.0)
            assert statistics.left[value] == pytest.approx(points[0])


def _pairs(*order):
    """Six classes in a row along the left-right axis, from the patient's right to the left."""
    label = np.zeros((3, 3, 14), np.uint16)
    for position, value in enumerate(order):
        label[1, 1, 2 * position + 1] = value
    return label


@pytest.mark.parametrize(
    ("order", "kinds"),
    [
        ((2, 4, 6, 5, 3, 1), []),
        ((1, 3, 5, 6, 4, 2), ["mirrored"]),
        ((1, 3, 6, 5, 4, 2), ["mirrored"]),
        ((1, 4, 6, 5, 3, 2), ["pair_swapped"]),
        ((2, 0, 6, 0, 0, 1), []),
        ((0, 0, 0, 0, 0, 0), ["empty_label"]),
    ],
)
def test_sides(order, kinds):
    assert [finding.kind for finding in check_label(label_statistics(_volume(_pairs(*order))), ORDER)] == kinds


def test_sides_are_the_patients_not_the_arrays():
    mirrored_axis = (-1, 0, 0, 0, 1, 0, 0, 0, 1)
    label = _pairs(2, 4, 6, 5, 3, 1)
    assert [f.kind for f in check_label(label_statistics(_volume(label, mirrored_axis)), ORDER)] == ["mirrored"]
    assert not list(check_label(label_statistics(_volume(label[:, :, ::-1], mirrored_axis)), ORDER))


def test_unknown_values_are_named_with_their_voxels():
    label = _pairs(1, 2, 9, 9, 0, 0)
    with pytest.raises(BadCaseError, match=r"of order \(0, 1, 2, 6\) in the label map, but found 9 \(2 voxels\)"):
        check_values(label_statistics(_volume(label)), (0, 1, 2, 6), ORDER.name)


def test_the_ignore_label_is_known_and_not_a_class():
    order = LabelOrder("sparse", {"body": 1}, ignore_label=255)
    label = np.full((2, 2, 2), 255, np.uint16)
    check_values(label_statistics(_volume(label)), (0, 1, 255), order.name)
    assert [finding.kind for finding in check_label(label_statistics(_volume(label)), order)] == ["empty_label"]


@pytest.mark.parametrize(
    ("array", "kinds"),
    [
        (np.arange(8.0), []),
        (np.full(8, 3), ["constant_image"]),
        (np.array([np.nan, 1, 2, 3, 4, 5, 6, np.inf]), ["not_a_number"]),
        (np.full(8, np.nan), ["not_a_number", "constant_image"]),
    ],
)
def test_images(array, kinds):
    assert [finding.kind for finding in check_image(_volume(array.reshape(2, 2, 2)), "CT")] == kinds


def test_nan_becomes_the_minimum():
    np.testing.assert_array_equal(replace_non_finite(np.array([np.nan, -3.0, np.inf, 2.0])), [-3, -3, -3, 2])
    np.testing.assert_array_equal(replace_non_finite(np.array([np.nan, 5.0])), [5, 5])


def test_what_networks_would_see_as_infinite_is_no_number():
    array = np.zeros((2, 3, 4))
    array[0, 0, 0], array[1, 2, 3] = 1e39, 1
    assert [finding.kind for finding in check_image(_volume(array), "image")] == ["not_a_number"]
    assert replace_non_finite(array).max() == 1


def test_intensities_are_means_under_each_integer_also_of_classes_that_share_some():
    random = np.random.default_rng(0)
    label, image = random.integers(0, 4, (4, 5, 6)).astype(np.uint16), random.normal(0, 100, (4, 5, 6))
    statistics = label_statistics(_volume(label), _volume(image))
    assert statistics.intensities == pytest.approx({value: image[label == value].mean() for value in (1, 2, 3)})
    joined = statistics.translated({0: (0,), 1: (1,), 2: (1, 2), 3: (2,)})
    expected = {1: image[np.isin(label, (1, 2))].mean(), 2: image[np.isin(label, (2, 3))].mean()}
    assert joined.intensities == pytest.approx(expected)
    assert label_statistics(_volume(label)).translated({0: (0,), 1: (1,), 2: (1,), 3: ()}).intensities == {}
