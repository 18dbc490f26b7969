"""The synthetic CTs."""

from __future__ import annotations

import numpy as np
import pytest

from nnunetv2_ext.demo.phantoms import AIR, LABEL_VALUES, STRUCTURES, make_phantom


def test_same_seed_same_patient():
    first, second, other = make_phantom(7), make_phantom(7), make_phantom(8)
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.labels, second.labels)
    assert first.spacing == second.spacing
    assert first.image.shape != other.image.shape or not np.array_equal(first.image, other.image)


def test_shapes_and_spacings_differ_between_patients():
    phantoms = [make_phantom(seed) for seed in range(8)]
    assert len({phantom.image.shape for phantom in phantoms}) > 3
    assert len({phantom.spacing for phantom in phantoms}) > 2


@pytest.mark.parametrize("seed", range(4))
def test_every_structure_is_there_with_its_attenuation(seed):
    phantom = make_phantom(seed)
    assert phantom.image.shape == phantom.labels.shape
    assert phantom.image.dtype == np.int16
    voxel = np.prod(phantom.spacing)
    for structure in STRUCTURES:
        inside = phantom.labels == LABEL_VALUES[structure.name]
        assert inside.sum() * voxel > 8_000, f"{structure.name} has less than 8 ml"
        assert abs(np.median(phantom.image[inside]) - structure.hounsfield) < 60
    corner = phantom.image[:, 0, 0]
    assert abs(np.median(corner) - AIR) < 60


def test_anatomy_is_that_of_a_patient():
    """In SimpleITK's axes x points to the left, y to the back, z to the head."""
    phantom = make_phantom(3)

    def center(name, half=None):
        positions = np.argwhere(phantom.labels == LABEL_VALUES[name]) * phantom.spacing + phantom.origin
        return positions.mean(axis=0)

    assert center("liver")[2] < 0 < center("spleen")[2]
    assert center("vertebrae")[1] > center("aorta")[1] > center("liver")[1]
    assert center("lungs")[0] > center("liver")[0] > center("kidneys")[0]


def test_tumour_lies_in_the_liver():
    phantom = make_phantom(5)
    tumour = np.argwhere(phantom.labels == LABEL_VALUES["liver_tumour"])
    neighbours = {
        int(phantom.labels[tuple(np.clip(voxel + step, 0, np.array(phantom.labels.shape) - 1))])
        for voxel in tumour
        for step in np.vstack([np.eye(3, dtype=int), -np.eye(3, dtype=int)])
    }
    assert LABEL_VALUES["liver"] in neighbours
    assert LABEL_VALUES["lungs"] not in neighbours


def test_noise_is_as_asked_for():
    quiet, noisy = make_phantom(1, noise=1.0), make_phantom(1, noise=40.0)
    np.testing.assert_array_equal(quiet.labels, noisy.labels)
    liver = quiet.labels == LABEL_VALUES["liver"]
    difference = noisy.image[liver].astype(float) - quiet.image[liver]
    assert 35 < difference.std() < 45
