"""TotalSegmentator: two versions of CT, and MR."""

import pytest

from nnunetv2_ext.utilities.errors import UserError


@pytest.mark.parametrize(
    ("name", "image"), [("totalsegmentator_v1", "ct"), ("totalsegmentator_v2", "ct"), ("totalsegmentator_mr", "mri")]
)
def test_converts_the_published_layout(name, image, miniature, assert_converts):
    miniature.text("meta.csv", "image_id;age;split\ns0000;60;train\ns0001;61;val\ns0002;62;test\n")
    for case in ("s0000", "s0001", "s0002"):
        miniature.save(f"{case}/{image}.nii.gz", miniature.image())
        miniature.masks(f"{case}/segmentations", name)
    assert_converts(name, training=2, test=1, folds=1)


@pytest.fixture
def one_case(miniature):
    miniature.save("s0000/ct.nii.gz", miniature.image())
    miniature.masks("s0000/segmentations", "totalsegmentator_v2")
    return miniature


def test_a_mask_of_another_version_is_named(one_case, convert):
    one_case.save("s0001/ct.nii.gz", one_case.image())
    one_case.masks("s0001/segmentations", "totalsegmentator_v2")
    one_case.save("s0001/segmentations/face.nii.gz", one_case.label("totalsegmentator_v2"))
    (failed,) = convert("totalsegmentator_v2").failed
    assert failed.identifier == "s0001"
    assert "Expected the classes of totalsegmentator_v2, but found masks of face" in failed.findings[-1].message


def test_a_split_of_another_name_is_refused(one_case, convert):
    one_case.text("meta.csv", "image_id;age;split\ns0000;60;training\n")
    with pytest.raises(UserError, match=r"train, val, test as s0000 in .*meta\.csv, but found 'training'"):
        convert("totalsegmentator_v2")
