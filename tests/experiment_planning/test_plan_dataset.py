"""Plans files in nnU-Net's folders, read by the stock preprocessor."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest

from nnunetv2_ext.experiment_planning.plan_dataset import plan_dataset
from nnunetv2_ext.experiment_planning.templates import load_template
from nnunetv2_ext.utilities.errors import UserError


@pytest.mark.slow
def test_stock_preprocessing_reads_the_plans(tiny_dataset, nnunet_folders, caplog):
    from nnunetv2.experiment_planning.plan_and_preprocess_api import preprocess_dataset
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

    splits = [{"train": ["case0", "case1"], "val": ["case2"]}]
    (tiny_dataset / "splits_final.json").write_text(json.dumps(splits))
    with caplog.at_level(logging.INFO, "nnunetv2_ext"):
        path = plan_dataset(
            7, load_template("demo_cpu"), name="mine", spacing=[4.0, 4.0, 4.0], num_processes=1, show_progress=False
        )
    assert "no fingerprint yet" in caplog.text
    folder = nnunet_folders / "nnUNet_preprocessed" / "Dataset007_Tiny"
    assert path == folder / "mine.json"
    assert json.loads((folder / "splits_final.json").read_text()) == splits
    plans = json.loads(path.read_text())
    fingerprint = json.loads((folder / "dataset_fingerprint.json").read_text())
    assert (
        plans["foreground_intensity_properties_per_channel"]
        == (fingerprint["foreground_intensity_properties_per_channel"])
    )

    preprocess_dataset(7, "mine", ("3d_fullres",), (1,), show_progress_bar=False)
    data, seg, _, _ = nnUNetDatasetBlosc2(str(folder / "mine_3d_fullres")).load_case("case0")
    # 20 x 30 x 36 voxels of 4 x 2 x 2 mm at 4 mm
    assert data.shape == (1, 20, 15, 18)
    box = np.asarray(data)[np.asarray(seg) == 1]
    assert abs(box.mean()) < 0.6  # the foreground's own statistics bring it to about zero
    assert (folder / "gt_segmentations" / "case0.nii.gz").is_file()


def test_existing_plans_are_kept_unless_asked(tiny_dataset, nnunet_folders, make_fingerprint):
    folder = nnunet_folders / "nnUNet_preprocessed" / "Dataset007_Tiny"
    folder.mkdir()
    (folder / "dataset_fingerprint.json").write_text(json.dumps(make_fingerprint()))
    (folder / "mine.json").write_text("precious")
    template = load_template("stunet_ct")
    with pytest.raises(UserError, match="--overwrite"):
        plan_dataset("Dataset007_Tiny", template, name="mine")
    assert (folder / "mine.json").read_text() == "precious"
    plan_dataset("Dataset007_Tiny", template, name="mine", overwrite=True)
    assert json.loads((folder / "mine.json").read_text())["plans_name"] == "mine"
    with pytest.raises(UserError, match="plans name"):
        plan_dataset(7, template, name="../mine")


def test_own_splits_are_kept(tiny_dataset, nnunet_folders, make_fingerprint, caplog):
    folder = nnunet_folders / "nnUNet_preprocessed" / "Dataset007_Tiny"
    folder.mkdir()
    (folder / "dataset_fingerprint.json").write_text(json.dumps(make_fingerprint()))
    (folder / "splits_final.json").write_text("[]")
    (tiny_dataset / "splits_final.json").write_text('[{"train": [], "val": []}]')
    with caplog.at_level(logging.WARNING, "nnunetv2_ext"):
        plan_dataset(7, load_template("stunet_ct"), name="mine")
    assert (folder / "splits_final.json").read_text() == "[]"
    assert "differs" in caplog.text


def test_dataset_without_cases(tiny_dataset, nnunet_folders):
    for file in (*tiny_dataset.glob("imagesTr/*"), *tiny_dataset.glob("labelsTr/*")):
        file.unlink()
    with pytest.raises(UserError, match="training cases"):
        plan_dataset(7, load_template("stunet_ct"), name="mine")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, None),
        ({"cases": ["case0", "case1"]}, "Case 'case2' belongs to no source"),
        ({"classes": ["A/box", "A/lung"]}, "A/lung do not exist in 'labels'"),
    ],
    ids=["sound", "case without source", "unknown class"],
)
def test_a_collection_that_no_trainer_would_take_is_not_planned(
    tiny_dataset, nnunet_folders, make_fingerprint, changes, message
):
    folder = nnunet_folders / "nnUNet_preprocessed" / "Dataset007_Tiny"
    folder.mkdir()
    (folder / "dataset_fingerprint.json").write_text(json.dumps(make_fingerprint()))
    content = json.loads((tiny_dataset / "dataset.json").read_text())
    source = {"classes": ["A/box"], "cases": ["case0", "case1", "case2"], **changes}
    content |= {
        "labels": {"background": 0, "A/box": [1, 1]},
        "regions_class_order": [1],
        "partial_labels": {"A": source},
    }
    (tiny_dataset / "dataset.json").write_text(json.dumps(content))
    if message is None:
        assert plan_dataset(7, load_template("stunet_ct"), name="mine").is_file()
        return
    with pytest.raises(UserError, match=f"Dataset007_Tiny/dataset.json: .*{message}"):
        plan_dataset(7, load_template("stunet_ct"), name="mine")
    assert not (folder / "mine.json").exists()


def test_an_unknown_configuration_is_refused_before_any_image_is_read(tiny_dataset, nnunet_folders):
    with pytest.raises(UserError, match="among 3d_fullres, 2d, but got '3d_lowres'"):
        plan_dataset(7, load_template("stunet_ct"), name="mine", configurations=["3d_fullres", "3d_lowres"])
    assert list((nnunet_folders / "nnUNet_preprocessed").iterdir()) == []


@pytest.mark.parametrize("damage", ["cut short", "gone"])
def test_a_training_image_that_cannot_be_read_is_named(damage, tiny_dataset, nnunet_folders):
    """nnU-Net's extractor takes missing voxels for zeros, and does not see links that lead nowhere."""
    file = tiny_dataset / "imagesTr" / "case1_0000.nii.gz"
    content = file.read_bytes()
    file.unlink()
    if damage == "cut short":
        file.write_bytes(content[: len(content) // 2])
    else:
        file.symlink_to("gone.nii.gz")
    with pytest.raises(UserError, match=r"case1_0000\.nii\.gz"):
        plan_dataset(7, load_template("demo_cpu"), name="mine", num_processes=1, show_progress=False)
    assert not list((nnunet_folders / "nnUNet_preprocessed").rglob("*.json"))
