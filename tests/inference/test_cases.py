"""Which cases an input holds."""

from __future__ import annotations

import pytest

from nnunetv2_ext.inference.cases import find_cases
from nnunetv2_ext.utilities.errors import UserError


def _touch(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"")
    return folder


def _found(folder, channels=1, ending=".nii.gz"):
    return {case.identifier: [file.name for file in case.files] for case in find_cases(folder, channels, ending)}


def test_nnunet_naming_groups_channels_and_strips_the_number(tmp_path):
    names = ["a_0000.nii.gz", "a_0001.nii.gz", "b_0000.nii.gz", "b_0001.nii.gz"]
    assert _found(_touch(tmp_path, *names), channels=2) == {"a": names[:2], "b": names[2:]}


def test_a_plain_folder_gives_one_case_per_image_of_any_format(tmp_path):
    folder = _touch(tmp_path, "x.nii.gz", "y.nrrd", "z.mha", "w.nii", "notes.txt", "labels.json", ".hidden.nii.gz")
    assert _found(folder) == {"x": ["x.nii.gz"], "y": ["y.nrrd"], "z": ["z.mha"], "w": ["w.nii"]}


def test_four_digits_without_a_channel_0000_are_part_of_the_name(tmp_path):
    folder = _touch(tmp_path, "patient_0012.nii.gz", "patient_0013.nii.gz")
    assert list(_found(folder)) == ["patient_0012", "patient_0013"]


@pytest.mark.parametrize("numbers", [(0, 1, 2), (0, 7)], ids=["without gaps", "with gaps"])
def test_plain_numbering_from_zero_on_stays_apart_for_models_of_one_channel(tmp_path, numbers):
    names = [f"scan_{number:04d}" for number in numbers]
    folder = _touch(tmp_path, *(f"{name}.nii.gz" for name in names))
    assert list(_found(folder)) == names
    assert list(_found(folder, channels=3)) == ["scan"]
    (alone,) = find_cases(folder / "scan_0000.nii.gz", 1, ".nii.gz")
    assert [file.name for file in alone.files] == ["scan_0000.nii.gz"]


def test_a_case_that_lacks_a_channel_stays_listed(tmp_path):
    folder = _touch(tmp_path, "a_0000.nii.gz", "b_0000.nii.gz", "b_0001.nii.gz")
    assert _found(folder, channels=2) == {"a": ["a_0000.nii.gz"], "b": ["b_0000.nii.gz", "b_0001.nii.gz"]}


def test_a_single_file_brings_its_other_channels(tmp_path):
    folder = _touch(tmp_path, "a_0000.nii.gz", "a_0001.nii.gz", "b_0000.nii.gz")
    cases = find_cases(folder / "a_0000.nii.gz", 2, ".nii.gz")
    assert [(case.identifier, [file.name for file in case.files]) for case in cases] == [
        ("a", ["a_0000.nii.gz", "a_0001.nii.gz"])
    ]


def test_a_single_file_of_any_name_is_a_case(tmp_path):
    _touch(tmp_path, "scan.mha")
    assert [case.identifier for case in find_cases(tmp_path / "scan.mha", 1, ".nii.gz")] == ["scan"]


def test_the_models_own_ending_is_an_image_too(tmp_path):
    assert _found(_touch(tmp_path, "a_0000.png"), ending=".png") == {"a": ["a_0000.png"]}


@pytest.mark.parametrize("name", ["scan.jpg", "scan", "scan.seg.nrrd", ".nii.gz"])
def test_a_file_with_a_wrong_ending_is_refused(tmp_path, name):
    _touch(tmp_path, name)
    with pytest.raises(UserError, match=r"ends with one of .*\.nii\.gz"):
        find_cases(tmp_path / name, 1, ".nii.gz")


def test_a_folder_without_images_says_what_it_holds(tmp_path):
    with pytest.raises(UserError, match=r"found report\.pdf"):
        find_cases(_touch(tmp_path, "report.pdf"), 1, ".nii.gz")
    with pytest.raises(UserError, match="does not exist"):
        find_cases(tmp_path / "missing", 1, ".nii.gz")


def test_two_images_of_one_name_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"Expected one file per case, but both .* are called a; rename"):
        find_cases(_touch(tmp_path, "a.nii.gz", "a.nrrd"), 1, ".nii.gz")


def _table(folder, text):
    (folder / "cases.csv").write_text(text, encoding="utf-8")
    return folder / "cases.csv"


def test_a_table_names_cases_and_their_channels(tmp_path):
    _touch(tmp_path / "far", "x.nii.gz", "y.nrrd", "z.nii.gz")
    table = _table(tmp_path, f"note,path,id\n,{tmp_path}/far/x.nii.gz,q\n,far/y.nrrd,p\n,far/z.nii.gz,p\n,gone.nii,r\n")
    cases = find_cases(table, 2, ".nii.gz")
    assert [(case.identifier, [str(file.relative_to(tmp_path)) for file in case.files]) for case in cases] == [
        ("p", ["far/y.nrrd", "far/z.nii.gz"]),
        ("q", ["far/x.nii.gz"]),
        ("r", ["gone.nii"]),
    ]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "the columns id and path in .*cases.csv, but found no rows"),
        ("id,path\n", "but found no rows"),
        ("case,file\na,b\n", "but found case, file"),
        ("id,path\na,b.nii\n../a,b.nii\n", "in row 2 of .*cases.csv, but found ../a and b.nii"),
        ("id,path\na\n", "in row 1 of .*cases.csv, but found a and None"),
        ("id,path\na,\n", "in row 1 of .*cases.csv, but found a and ''"),
    ],
)
def test_a_table_of_something_else_is_refused(tmp_path, text, sentence):
    with pytest.raises(UserError, match=sentence):
        find_cases(_table(tmp_path, text), 1, ".nii.gz")


def test_a_hidden_file_that_is_named_is_a_case(tmp_path):
    (case,) = find_cases(_touch(tmp_path, ".x.nii.gz") / ".x.nii.gz", 1, ".nii.gz")
    assert case.identifier == ".x"
