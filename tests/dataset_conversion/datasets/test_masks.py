"""Any folder of images and one mask per class."""

import json

import numpy as np
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


def test_a_test_set_may_have_masks_or_none(masks, miniature, convert, raw_folder):
    for case in "cd":
        miniature.save(f"test/{case}.nii.gz", miniature.image())
    miniature.masks("test_masks/c", LabelOrder("mine", {"aorta": 1, "liver": 2}))
    patterns = {"test_image": "test/{case}.nii.gz", "test_label": "test_masks/{case}/{class}.nii.gz"}
    assert not convert("masks", **patterns).failed
    assert sorted(file.name for file in (raw_folder / "imagesTs").iterdir()) == ["c_0000.nii.gz", "d_0000.nii.gz"]
    assert [file.name for file in (raw_folder / "labelsTs").iterdir()] == ["c.nii.gz"]


def test_pictures_with_overlapping_masks(miniature, convert, raw_folder, verify_integrity):
    from PIL import Image

    random = np.random.default_rng(0)
    expected = {}
    for case in "ab":
        expected[case] = {name: random.random((20, 30)) < 0.4 for name in ("cell", "nucleus")}
        (miniature.root / case).mkdir(parents=True)
        Image.fromarray(random.integers(0, 255, (20, 30, 3)).astype(np.uint8)).save(miniature.root / case / "image.png")
        for name, mask in expected[case].items():
            if (case, name) != ("b", "nucleus"):
                Image.fromarray(mask.astype(np.uint8) * 255).save(miniature.root / case / f"mask_{name}.png")
    expected["b"]["nucleus"][:] = False
    layout = {"image": "{case}/image.png", "label": "{case}/mask_{class}.png"}
    assert not convert("masks", accept=("missing_masks",), **layout).failed
    verify_integrity(raw_folder)
    labels = json.loads((raw_folder / "dataset.json").read_text())["labels"]
    for case, masks in expected.items():
        array = np.asarray(Image.open(raw_folder / "labelsTr" / f"{case}.png"))
        for name, mask in masks.items():
            np.testing.assert_array_equal(np.isin(array, labels[name]), mask)
