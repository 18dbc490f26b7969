"""Which parts of a prepared image the fast modes look at."""

from __future__ import annotations

import numpy as np
import pytest

from nnunetv2_ext.images.reading import scan_of_array
from nnunetv2_ext.inference.model.folder import read_model
from nnunetv2_ext.inference.modes import MODES
from nnunetv2_ext.inference.preparing.nnunet import NnunetPreprocessing

SPACING = (2.0, 1.5, 1.5)


@pytest.mark.parametrize(
    ("scheme", "uses_mask", "air"),
    [("CTNormalization", False, -1000.0), ("ZScoreNormalization", False, 3.0), ("ZScoreNormalization", True, 0.0)],
    ids=["CT", "MR", "MR with a mask of what is not zero"],
)
def test_air_and_padding_are_left_out(scheme, uses_mask, air, tmp_path, make_model_folder):
    changes = {"normalization_schemes": [scheme], "use_mask_for_norm": [uses_mask]}
    model = read_model(make_model_folder(tmp_path / "model", spacing=SPACING, changes=changes))
    distance = np.linalg.norm(np.moveaxis(np.indices((16, 20, 20)), 0, -1) - (8, 10, 10), axis=-1)
    body = distance < 7
    image = np.where(body, 100 + distance, air).astype(np.float32)

    prepared = NnunetPreprocessing(model, MODES["fast"]).prepare(scan_of_array(image, SPACING), None)

    # nnU-Net has cut the image to what is not zero; with equal spacings nothing is resampled.
    expected = body
    if air == 0:
        z, y, x = np.nonzero(body)
        expected = body[z.min() : z.max() + 1, y.min() : y.max() + 1, x.min() : x.max() + 1]
    assert prepared.content is not None
    np.testing.assert_array_equal(prepared.content.numpy(), expected)
