"""CT-ORG."""

import numpy as np


def test_converts_the_published_layout(miniature, assert_converts):
    for case in (0, 21):
        miniature.save(f"volume-{case}.nii.gz", miniature.image())
        # The published label maps are floating-point.
        miniature.save(f"labels-{case}.nii.gz", miniature.label("ct_org").astype(np.float32))
    assert_converts("ct_org", training=1, test=1)
