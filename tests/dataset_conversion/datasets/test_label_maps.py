"""Any folder of images and label maps."""

import pytest

from nnunetv2_ext.labels import LabelOrder
from nnunetv2_ext.utilities.errors import UserError


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


@pytest.mark.parametrize(
    "options",
    [{"image": "images/a.nii.gz"}, {"label": "labels/a.nii.gz"}, {"label": "labels/{case}/{class}.nii.gz"}],
    ids=str,
)
def test_patterns_that_do_not_tell_cases_apart_are_refused(options, label_maps, convert):
    with pytest.raises(UserError, match=r"\{case\} in --image and --label, and no \{class\}.*the layout 'masks'"):
        convert("label_maps", order=str(label_maps), **options)


def test_names_cannot_come_from_label_maps_that_are_not_there(miniature, convert):
    miniature.save("images/a.nii.gz", miniature.image())
    with pytest.raises(UserError, match=r"Expected label maps in .*, but found none"):
        convert("label_maps")
