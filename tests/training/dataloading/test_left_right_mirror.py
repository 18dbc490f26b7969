from __future__ import annotations

import numpy as np
import pytest
import torch

from nnunetv2_ext.training.dataloading.left_right_mirror import LeftRightMirrorTransform


@pytest.mark.parametrize("axes", [(), (0,), (2,), (0, 2), (0, 1, 2)])
def test_labels_are_flipped_and_exchanged_where_left_and_right_are(axes):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(1, 4, 5, 6)).astype(np.float32)
    labels = rng.integers(-1, 4, (2, 4, 5, 6)).astype(np.int16)
    transform = LeftRightMirrorTransform((0, 1, 2), 2, np.array([0, 1, 3, 2]))
    transform.get_parameters = lambda **_: {"axes": list(axes)}
    mirrored = transform(image=torch.from_numpy(image), segmentation=torch.from_numpy(labels))
    along = tuple(axis + 1 for axis in axes)
    expected = np.flip(labels, along)
    if 2 in axes:
        expected = np.select([expected == 2, expected == 3], [3, 2], expected)
    np.testing.assert_array_equal(mirrored["image"].numpy(), np.flip(image, along))
    np.testing.assert_array_equal(mirrored["segmentation"].numpy(), expected)
    assert mirrored["segmentation"].dtype == torch.int16


def test_axes_are_drawn_as_nnunet_draws_them():
    transform = LeftRightMirrorTransform((0, 2), 2, np.array([0, 2, 1]))
    torch.manual_seed(0)
    drawn = [tuple(transform.get_parameters()["axes"]) for _ in range(200)]
    assert set(drawn) == {(), (0,), (2,), (0, 2)}
