"""AbdomenAtlas 1.0 Mini."""


def test_converts_the_published_layout(miniature, assert_converts):
    names = {"gallbladder": "gall_bladder", "inferior_vena_cava": "postcava"}
    miniature.save("BDMAP_00000001/ct.nii.gz", miniature.image())
    miniature.masks("BDMAP_00000001/segmentations", "abdomenatlas_1_0", names)
    assert_converts("abdomenatlas_1_0", training=1)
