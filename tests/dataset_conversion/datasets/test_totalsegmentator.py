"""TotalSegmentator: two versions of CT, and MR."""

import pytest


@pytest.mark.parametrize(
    ("name", "image"), [("totalsegmentator_v1", "ct"), ("totalsegmentator_v2", "ct"), ("totalsegmentator_mr", "mri")]
)
def test_converts_the_published_layout(name, image, miniature, assert_converts):
    miniature.text("meta.csv", "image_id;age;split\ns0000;60;train\ns0001;61;val\ns0002;62;test\n")
    for case in ("s0000", "s0001", "s0002"):
        miniature.save(f"{case}/{image}.nii.gz", miniature.image())
        miniature.masks(f"{case}/segmentations", name)
    assert_converts(name, training=2, test=1, folds=1)
