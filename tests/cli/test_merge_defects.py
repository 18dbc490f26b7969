"""What once went wrong with the merging of datasets, through the command."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2_ext.cli.merge_datasets import main

LABELS = {"background": 0, "liver": 1, "tumour": 2}


@pytest.fixture
def raw(make_raw_dataset, tiny_case):
    """Six cases in one dataset, six in another."""
    for number, name in ((3, "A"), (4, "B")):
        cases = {f"{name.lower()}{case}": tiny_case(10 * number + case, [1, 2]) for case in range(6)}
        make_raw_dataset(f"Dataset00{number}_{name}", LABELS, cases)
    return make_raw_dataset("Dataset005_C", LABELS, {"c": tiny_case(99, [1])}).parent


def _merge(*arguments):
    return main(["3", "4", "-d", "50", "-n", "Both", "-np", "1", *arguments])


def _array(file):
    return sitk.GetArrayFromImage(sitk.ReadImage(str(file)))


def test_splits_of_the_users_own_are_kept(raw):
    file = raw.parent / "nnUNet_preprocessed" / "Dataset050_Both" / "splits_final.json"
    assert _merge() == 0
    drawn = json.loads(file.read_text(encoding="utf-8"))
    assert _merge("--overwrite") == 0
    assert json.loads(file.read_text(encoding="utf-8")) == drawn
    own = [{"train": drawn[0]["val"], "val": drawn[0]["train"]}]
    file.write_text(json.dumps(own), encoding="utf-8")
    assert _merge("--overwrite") == 0
    assert json.loads(file.read_text(encoding="utf-8")) == own


def test_splits_of_a_dataset_that_is_replaced_are_replaced(raw, tiny_case, make_raw_dataset):
    file = raw.parent / "nnUNet_preprocessed" / "Dataset050_Both" / "splits_final.json"
    assert _merge() == 0
    shutil.rmtree(raw / "Dataset004_B")
    make_raw_dataset("Dataset004_B", LABELS, {f"new{case}": tiny_case(70 + case, [1, 2]) for case in range(6)})
    assert _merge("--overwrite") == 0
    cases = {case for fold in json.loads(file.read_text(encoding="utf-8")) for case in fold["val"]}
    assert "B_new0" in cases
    assert "B_b0" not in cases


@pytest.mark.parametrize("place", ["500 mm away", "flipped"])
def test_a_label_map_that_lies_elsewhere_is_refused(place, raw, capsys):
    file = raw / "Dataset003_A" / "labelsTr" / "a1.nii.gz"
    label = sitk.ReadImage(str(file))
    if place == "flipped":
        label.SetDirection((-1, 0, 0, 0, 1, 0, 0, 0, 1))
    else:
        label.SetOrigin((0, 0, 500))
    sitk.WriteImage(label, str(file))
    assert _merge() == 2
    assert "A_a1: Expected the label map on the grid of the image" in capsys.readouterr().err
    assert not (raw / "Dataset050_Both").exists()


def test_test_images_come_along(raw, tiny_case):
    folder = raw / "Dataset004_B"
    for part in ("images", "labels"):
        (folder / f"{part}Ts").mkdir()
    for case, labelled in (("t1", True), ("t2", False)):
        shutil.copy(folder / "imagesTr" / f"b{case[1]}_0000.nii.gz", folder / "imagesTs" / f"{case}_0000.nii.gz")
        if labelled:
            shutil.copy(folder / "labelsTr" / "b1.nii.gz", folder / "labelsTs" / "t1.nii.gz")
    assert _merge() == 0
    merged = raw / "Dataset050_Both"
    names = [file.name for part in ("imagesTs", "labelsTs") for file in sorted((merged / part).glob("*"))]
    assert names == ["B_t1_0000.nii.gz", "B_t2_0000.nii.gz", "B_t1.nii.gz"]
    assert (merged / "imagesTs" / names[0]).samefile(folder / "imagesTs" / "t1_0000.nii.gz")
    np.testing.assert_array_equal(_array(merged / "labelsTs/B_t1.nii.gz"), _array(merged / "labelsTr/B_b1.nii.gz"))
    content = json.loads((merged / "dataset.json").read_text(encoding="utf-8"))
    assert content["numTraining"] == 12
    assert not any("B_t1" in source["cases"] for source in content["partial_labels"].values())
    assert main(["50", "-d", "51", "-n", "Again", "-np", "1"]) == 0
    assert (raw / "Dataset051_Again" / "labelsTs" / "B_t1.nii.gz").is_file()


def test_names_with_line_breaks_are_not_passed_over(raw):
    folder = raw / "Dataset003_A"
    for case in ("a1", "a2"):
        (folder / "imagesTr" / f"{case}_0000.nii.gz").rename(folder / "imagesTr" / f"{case[0]}\n{case[1]}_0000.nii.gz")
        (folder / "labelsTr" / f"{case}.nii.gz").rename(folder / "labelsTr" / f"{case[0]}\n{case[1]}.nii.gz")
    content = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    del content["numTraining"]
    (folder / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
    assert _merge() == 0
    labels = {file.name for file in (raw / "Dataset050_Both" / "labelsTr").iterdir()}
    assert {"A_a_1.nii.gz", "A_a_2.nii.gz"} <= labels
    assert len(labels) == 12


@pytest.mark.parametrize("file", ["dataset.json", "splits_final.json"])
def test_half_a_character_in_a_file_is_told(file, raw, capsys):
    if file == "dataset.json":
        path = raw / "Dataset003_A" / file
        path.write_text(path.read_text(encoding="utf-8").replace("liver", "\\ud800"), encoding="utf-8")
    else:
        path = raw.parent / "nnUNet_preprocessed" / "Dataset050_Both" / file
        path.parent.mkdir()
        path.write_text('[{"train": ["\\udfff"], "val": []}]', encoding="utf-8")
    assert _merge() == 2
    error = capsys.readouterr().err
    assert f"Expected JSON in {path}" in error
    assert "Traceback" not in error


def test_a_file_in_place_of_the_dataset_is_told(raw, capsys):
    (raw / "Dataset050_Both").write_text("mine", encoding="utf-8")
    for arguments in ((), ("--overwrite",)):
        assert _merge(*arguments) == 2
        assert "but there is a file in its place" in capsys.readouterr().err
