"""Copies of an image are found through every header change that happens in practice, other images are not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunetv2_ext.dataset_conversion.duplicates import find_duplicates, image_fingerprint


def _ct(seed, shape=(12, 20, 18)):
    """A body on air with padding outside a round field of view."""
    rng = np.random.default_rng(seed)
    grid = np.indices(shape).astype(float)
    radius = np.sqrt(sum(((g - s / 2) / s) ** 2 for g, s in zip(grid[1:], shape[1:], strict=True)))
    image = np.where(radius < 0.45, rng.normal(40, 60, shape) + 30 * grid[0], -1000)
    return np.where(radius > 0.6, -1024, image).round().astype(np.int16)


def _duplicates(**images):
    return find_duplicates({name: image_fingerprint([image]) for name, image in images.items()})


def test_equal_voxels_of_another_type_are_identical():
    image = _ct(0)
    (group,) = _duplicates(a=image, b=_ct(1), c=image.astype(np.float64), d=_ct(2))
    assert group.cases == ("a", "c")
    assert group.identical


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image[::-1, :, ::-1],
        lambda image: np.ascontiguousarray(image.transpose(2, 0, 1)),
        lambda image: image + np.int16(1024),
        lambda image: image.astype(np.float32) * 0.01 + 3,
        lambda image: np.where(image == -1024, np.int16(-2048), image),
        lambda image: image.astype(np.float64) + 1e-4,
    ],
    ids=["flipped", "axes exchanged", "offset", "scaled", "padding", "rounded"],
)
def test_another_header_does_not_hide_a_copy(change):
    image = _ct(0)
    (group,) = _duplicates(a=image, b=_ct(1), c=change(image))
    assert group.cases == ("a", "c")
    assert not group.identical


def test_one_changed_voxel_is_no_longer_identical():
    image = _ct(0)
    changed = image.copy()
    changed[3, 10, 9] += 1
    assert image_fingerprint([image]).voxel_hash != image_fingerprint([changed]).voxel_hash


def test_equal_content_in_another_shape_is_not_identical():
    image = np.arange(24, dtype=np.int16)
    first, second = image.reshape(2, 3, 4), image.reshape(4, 3, 2)
    assert image_fingerprint([first]).voxel_hash != image_fingerprint([second]).voxel_hash


def test_every_channel_counts():
    first, second, third = _ct(0), _ct(1), _ct(2)
    fingerprints = {"a": image_fingerprint([first, second]), "b": image_fingerprint([first, third])}
    assert find_duplicates(fingerprints) == []
    fingerprints["c"] = image_fingerprint([first, second[:, ::-1]])
    assert [group.cases for group in find_duplicates(fingerprints)] == [("a", "c")]


def test_images_of_equal_shape_and_noise_are_told_apart():
    images = {f"case {seed}": _ct(seed) for seed in range(60)}
    assert _duplicates(**images) == []


def test_constant_images_match_only_when_identical():
    empty, other = np.zeros((4, 4, 4)), np.zeros((4, 4, 4))
    other[0, 0, 0] = 1
    assert [group.cases for group in _duplicates(a=empty, b=other, c=empty)] == [("a", "c")]


def test_chains_become_one_group_and_2d_images_work():
    image = _ct(0)[5]
    (group,) = _duplicates(c=image, b=image[::-1], a=image + np.int16(7))
    assert group.cases == ("a", "b", "c")


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=10))
def test_groups_are_the_equal_seeds(seeds):
    fingerprints = {f"{i:02d}": image_fingerprint([_ct(seed, (6, 8, 7))]) for i, seed in enumerate(seeds)}
    expected = {
        tuple(f"{i:02d}" for i, other in enumerate(seeds) if other == seed) for seed in seeds if seeds.count(seed) > 1
    }
    assert {group.cases for group in find_duplicates(fingerprints)} == expected
