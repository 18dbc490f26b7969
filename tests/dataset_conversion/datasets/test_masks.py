"""Any folder of images and one mask per class."""

import json

import pytest

from nnunetv2_ext.labels import LabelOrder
from nnunetv2_ext.utilities.errors import UserError


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


def test_an_order_decides_the_integers(masks, miniature, convert, raw_folder):
    order = miniature.text("order.json", LabelOrder("mine", {"liver": 7, "aorta": 9, "spleen": 11}).to_json())
    convert("masks", order=str(order), accept=("missing_masks",))
    labels = json.loads((raw_folder / "dataset.json").read_text())["labels"]
    assert labels == {"background": 0, "liver": 1, "aorta": 2, "spleen": 3}


def test_masks_of_classes_that_the_order_lacks_are_refused(masks, miniature, convert):
    order = miniature.text("order.json", LabelOrder("mine", {"liver": 1}).to_json())
    with pytest.raises(UserError, match="Expected the classes of mine, but there are masks of aorta"):
        convert("masks", order=str(order))


@pytest.mark.parametrize(
    "options", [{"image": "ct.nii.gz"}, {"label": "{class}.nii.gz"}, {"label": "{case}/label.nii.gz"}], ids=str
)
def test_patterns_without_case_or_class_are_refused(options, masks, convert):
    with pytest.raises(UserError, match=r"\{case\} and \{class\} in --label.*the layout 'label_maps'"):
        convert("masks", **options)
