"""Surface distances against MONAI, and against a brute-force formula over all pairs of voxels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nnunetv2_ext.evaluation.surface import SurfaceDistances, surface_points


def brute_force_distances(reference, prediction, spacing):
    """Both directions, from the definition: a surface voxel has a face neighbour that is outside."""

    def surface(mask):
        points = []
        for index in np.argwhere(mask):
            for axis in range(mask.ndim):
                for step in (-1, 1):
                    neighbour = index.copy()
                    neighbour[axis] += step
                    outside = not 0 <= neighbour[axis] < mask.shape[axis]
                    if outside or not mask[tuple(neighbour)]:
                        points.append(tuple(index))
        return np.array(sorted(set(points))) * np.array(spacing)

    first, second = surface(reference), surface(prediction)
    pairs = np.sqrt(((first[:, None] - second[None]) ** 2).sum(axis=-1))
    return pairs.min(axis=1), pairs.min(axis=0)


def _distances(reference, prediction, spacing):
    return SurfaceDistances.between(surface_points(reference, spacing), surface_points(prediction, spacing))


def _blobs(seed, shape=(14, 20, 18)):
    from scipy import ndimage

    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.normal(size=shape), 2)
    return noise > np.quantile(noise, 0.8), np.roll(noise, 1, axis=0) > np.quantile(noise, 0.75)


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(*[st.integers(1, 6)] * 3).flatmap(
        lambda shape: st.tuples(hnp.arrays(np.bool_, shape), hnp.arrays(np.bool_, shape))
    ),
    st.tuples(*[st.floats(0.3, 5)] * 3),
)
def test_equal_to_brute_force(masks, spacing):
    reference, prediction = masks
    assume(reference.any() and prediction.any())
    expected = brute_force_distances(reference, prediction, spacing)
    distances = _distances(reference, prediction, spacing)
    np.testing.assert_allclose(distances.from_reference, expected[0], atol=1e-9)
    np.testing.assert_allclose(distances.from_prediction, expected[1], atol=1e-9)
    both = np.concatenate(expected)
    assert distances.mean() == pytest.approx(both.mean(), abs=1e-6)
    assert distances.hausdorff(95) == pytest.approx(max(np.percentile(one, 95) for one in expected), abs=1e-6)
    assert distances.hausdorff(100) == pytest.approx(both.max(), abs=1e-6)
    for tolerance in (1, 2.5):
        undecided = np.abs(both - tolerance) < 1e-5
        within = (both[~undecided] <= tolerance).sum()
        assert within - 1e-9 <= distances.surface_dice(tolerance) * len(both) <= within + undecided.sum() + 1e-9


@pytest.mark.parametrize("seed", range(4))
def test_equal_to_monai(seed):
    import torch
    from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice

    spacing = (2.93, 0.71, 1.13)
    reference, prediction = _blobs(seed)
    one, two = (torch.from_numpy(mask[None, None].astype(np.float32)) for mask in (prediction, reference))
    distances = _distances(reference, prediction, spacing)
    options: dict[str, Any] = {"include_background": True, "spacing": spacing}
    expected = compute_hausdorff_distance(one, two, percentile=95, **options).item()
    assert distances.hausdorff(95) == pytest.approx(expected, abs=1e-5)
    expected = compute_average_surface_distance(one, two, symmetric=True, **options).item()
    assert distances.mean() == pytest.approx(expected, abs=1e-5)
    for tolerance in (1, 2, 3):
        expected = compute_surface_dice(one, two, class_thresholds=[tolerance], **options).item()
        assert distances.surface_dice(tolerance) == pytest.approx(expected, abs=1e-6)


def test_a_distance_of_exactly_the_tolerance_is_within_it():
    # 12 * 0.1 - 2 * 0.1 is a little more than 1 in floating point.
    reference, prediction = np.zeros((2, 20), dtype=bool)
    reference[2], prediction[12] = True, True
    assert _distances(reference, prediction, (0.1,)).surface_dice(1.0) == 1.0
    assert _distances(reference, prediction, (0.1001,)).surface_dice(1.0) == 0.0


def test_a_cut_mask_keeps_its_place():
    reference, _ = _blobs(0)
    whole = surface_points(np.pad(reference, 3), (1, 2, 3))
    cut = surface_points(reference, (1, 2, 3), (3, 3, 3))
    np.testing.assert_array_equal(whole, cut)
