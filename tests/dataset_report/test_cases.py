"""What a dataset.json says of cases and classes."""

from __future__ import annotations

import json

import pytest

from nnunetv2_ext.dataset_report.cases import left_right_pairs, read_raw_dataset
from nnunetv2_ext.utilities.errors import UserError


def test_names_say_which_classes_are_left_and_right():
    names = ["kidney_left", "kidney_right", "Left lung", "Right lung", "A_Carotid_L", "A_Carotid_R", "leftover", "L1"]
    pairs = [("kidney_left", "kidney_right"), ("Left lung", "Right lung"), ("A_Carotid_L", "A_Carotid_R")]
    assert left_right_pairs(names) == pairs
    assert left_right_pairs(["kidney_left"]) == []


def test_test_cases_and_cases_without_files_are_found_and_hidden_files_are_not(raw_dataset):
    folder = raw_dataset()
    (folder / "imagesTs").mkdir()
    (folder / "imagesTs" / "case_0_0000.nii.gz").touch()
    (folder / "labelsTr" / "case_1.nii.gz").unlink()
    dataset = read_raw_dataset(str(folder))
    assert [case.own_name for case in dataset.cases if case.split == "test"] == ["case_0"]
    assert len(dataset.cases) == 9
    assert dataset.channels == ("CT",)


def test_each_value_is_drawn_as_its_smallest_class(raw_dataset):
    labels = {"background": 0, "liver with tumour": [1, 2], "tumour": [2, 2], "spleen": 3, "ignore": 4}
    dataset = read_raw_dataset(str(raw_dataset(labels=labels, order=[1, 2, 3])))
    assert dataset.names == {1: "liver with tumour", 2: "tumour", 3: "spleen"}
    assert dataset.ignore_label == 4
    assert dataset.explained("case_0") == {0, 1, 2, 3, 4}


def test_a_case_of_a_collection_has_the_classes_of_its_source_that_it_does_not_lack(raw_dataset):
    labels = {"background": 0, "A/liver": [1, 1], "A/left": [2, 2], "B/right": [3, 3]}
    sources = {
        "A": {"classes": ["A/liver", "A/left"], "cases": ["case_0", "case_1"], "exceptions": {"case_1": ["A/left"]}},
        "B": {"classes": ["B/right"], "cases": ["case_2"]},
    }
    dataset = read_raw_dataset(str(raw_dataset(labels=labels, order=[1, 2, 3], extra={"partial_labels": sources})))
    assert dataset.annotated("case_0") == ("A/liver", "A/left")
    assert dataset.annotated("case_1") == ("A/liver",)
    assert dataset.annotated("case_2") == ("B/right",)
    assert dataset.explained("case_2") == {0, 3}


@pytest.mark.parametrize(
    ("entry", "value", "reason"),
    [
        ("file_ending", ".exe", "file_ending"),
        ("labels", {"background": 0, " ": 1}, "printable"),
        ("labels", 3, "labels"),
    ],
)
def test_a_bad_dataset_json_is_refused(raw_dataset, entry, value, reason):
    folder = raw_dataset()
    content = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    (folder / "dataset.json").write_text(json.dumps(content | {entry: value}), encoding="utf-8")
    with pytest.raises(UserError, match=reason):
        read_raw_dataset(str(folder))


def test_a_dataset_without_cases_is_refused(raw_dataset):
    folder = raw_dataset()
    for file in (folder / "imagesTr").iterdir():
        file.unlink()
    with pytest.raises(UserError, match="but found none"):
        read_raw_dataset(str(folder))
