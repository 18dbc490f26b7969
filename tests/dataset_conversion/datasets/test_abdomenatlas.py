"""AbdomenAtlas 1.0 Mini and 1.1."""

import pytest


@pytest.mark.parametrize("name", ["abdomenatlas_1_0", "abdomenatlas_1_1"])
def test_converts_the_published_layout(name, miniature, assert_converts):
    names = {"gallbladder": "gall_bladder", "inferior_vena_cava": "postcava"}
    miniature.save("BDMAP_00000001/ct.nii.gz", miniature.image())
    miniature.masks("BDMAP_00000001/segmentations", name, names)
    miniature.save("BDMAP_00000001/segmentations/of_a_later_release.nii.gz", miniature.label(name))
    assert_converts(name, training=1)
