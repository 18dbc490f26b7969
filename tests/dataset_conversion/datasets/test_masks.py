"""Any folder of images and one mask per class."""

import pytest

from nnunetv2_ext.labels import LabelOrder


@pytest.fixture
def masks(miniature):
    order = LabelOrder("mine", {"aorta": 1, "liver": 2})
    for case in "ab":
        miniature.save(f"{case}/ct.nii.gz", miniature.image())
        miniature.masks(f"{case}/segmentations", order)


def test_converts_the_layout(masks, assert_converts):
    assert_converts("masks", training=2, licensed=False)


def test_the_commands_of_the_documentation_run(masks, assert_documented_commands_run):
    assert_documented_commands_run("masks")
