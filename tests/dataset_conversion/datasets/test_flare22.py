"""FLARE 2022."""

import pytest


@pytest.mark.parametrize("folder", ["FLARE22Train", "Training/FLARE22_LabeledCase50"])
def test_converts_the_published_layouts(miniature, assert_converts, folder):
    miniature.case(f"{folder}/images/FLARE22_Tr_0001_0000.nii.gz", f"{folder}/labels/FLARE22_Tr_0001.nii.gz", "flare22")
    assert_converts("flare22", training=1)
