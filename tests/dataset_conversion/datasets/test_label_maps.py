"""Any folder of images and label maps."""

import pytest

from nnunetv2_ext.labels import LabelOrder


@pytest.fixture
def label_maps(miniature):
    """Two cases; returns the file that names their classes."""
    order = LabelOrder("mine", {"liver": 3, "spleen": 7})
    for case in "ab":
        miniature.case(f"images/{case}.nii.gz", f"labels/{case}.nii.gz", order)
    return miniature.text("order.json", order.to_json())


def test_converts_the_layout(label_maps, assert_converts):
    assert_converts("label_maps", training=2, licensed=False, order=str(label_maps))


def test_the_commands_of_the_documentation_run(label_maps, assert_documented_commands_run):
    assert_documented_commands_run("label_maps")
