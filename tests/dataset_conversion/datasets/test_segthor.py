"""SegTHOR."""

import pytest


@pytest.fixture
def segthor(miniature):
    miniature.case("train/Patient_01/Patient_01.nii.gz", "train/Patient_01/GT.nii.gz", "segthor")
    miniature.case("test/Patient_41.nii.gz", None, "segthor")


def test_converts_the_published_layout(segthor, assert_converts):
    assert_converts("segthor", training=1, test=1)


def test_the_commands_of_the_documentation_run(segthor, assert_documented_commands_run):
    assert_documented_commands_run("segthor")
