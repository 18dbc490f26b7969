"""What strings from files may become."""

from __future__ import annotations

from pathlib import Path

import pytest

from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.names import (
    case_names,
    check_label_names,
    checked_ending,
    checked_name,
    file_name,
    printable,
    quoted,
    refuse_equal_names,
)

HOSTILE = [
    "",
    ".",
    "..",
    "../x",
    "/x",
    "-rf",
    ".hidden",
    "a b",
    "a;b",
    "a\0b",
    "a\x1b[2Jb",
    "a\nb",
    "ä",
    "x" * 5000,
    5,
    None,
]


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_what_is_no_plain_name_is_refused_in_one_line(name):
    with pytest.raises(UserError, match="Expected a fold of letters") as error:
        checked_name(name, "a fold")
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 400


@pytest.mark.parametrize("name", ["3d_fullres", "nnUNetPlans", "Dataset007_A-b.c", "0", "_x"])
def test_plain_names_stay(name):
    assert checked_name(name, "a name") == name


@pytest.mark.parametrize("ending", ["/../../x.nii.gz", ".nii.gz/../x", "", ".pth", ".nii.gz\n", None, 5], ids=ascii)
def test_endings_that_cannot_be_written_are_refused(ending):
    with pytest.raises(UserError, match=r"as 'file_ending' in dataset\.json, but found"):
        checked_ending(ending, "dataset.json")
    assert checked_ending(".nii.gz", "dataset.json") == ".nii.gz"


@pytest.mark.parametrize(
    "name", ["liver\0", "liver\x1b[31m", "li\nver", "liver\x85", "\u202eliver", "\ud800", " ", "", 5], ids=ascii
)
def test_class_names_that_a_header_would_garble_are_refused(name):
    with pytest.raises(UserError, match="Expected names of printable characters in the order, but found"):
        check_label_names(["spleen", name], "the order")
    check_label_names(["spleen", "foie (gauche)", "肝臓", "L1/corpus"], "the order")


@pytest.mark.parametrize(
    ("wanted", "name"),
    [
        ("patient 1", "patient_1"),
        ("Müller", "Müller"),
        ("Mu\u0308ller", "Müller"),
        ("患者-3", "患者-3"),
        ("रोगी", "रोगी"),
        ("../../x", "_.._x"),
        ("..", "_"),
        ("-rf", "rf"),
        ("a\0\x1bb", "a_b"),
        ("\udcffx", "_x"),
        ("x_seg", "x_seg_"),
        ("settings", "settings_"),
        ("Dataset", "Dataset_"),
        ("CON", "CON_"),
        ("lpt1.old", "lpt1.old_"),
        ("amos_0012", "amos_0012"),
    ],
    ids=ascii,
)
def test_cases_keep_letters_of_every_script_and_nothing_that_means_something_else(wanted, name):
    assert case_names([wanted]) == {wanted: name}


def test_cases_that_would_get_one_name_are_numbered_whatever_their_order(caplog):
    expected = {"a_b": "a_b", "a b": "a_b_3", "a?b": "a_b_4", "a_b_2": "a_b_2"}
    assert case_names(expected) == expected
    assert case_names(reversed(expected)) == expected
    assert "'a?b' -> a_b_4" in caplog.text


def test_very_many_cases_are_named_in_a_moment():
    assert len(set(case_names(f"{'?' * (number % 2)}{number // 2}" for number in range(100_000)).values())) == 100_000


@pytest.mark.parametrize("name_it", [file_name, lambda text: case_names([text])])
def test_names_of_thousands_of_letters_are_refused(name_it):
    with pytest.raises(UserError, match="at most 200 bytes, but got xxx"):
        name_it("x" * 5000)


def test_two_inputs_of_one_name_are_refused():
    refuse_equal_names([("a", Path("a.nrrd")), ("b", Path("b.nrrd"))])
    with pytest.raises(UserError, match=r"both 'a b.nrrd' and a.nii are called a; rename or move one of them"):
        refuse_equal_names([("a", Path("a b.nrrd")), ("a", Path("a.nii"))])


def test_what_is_printed_moves_no_cursor():
    assert printable("a\x1b[2J\tb\nc\u202e") == "a\\x1b[2J\tb\nc\\u202e"
    assert quoted("a\nb; rm") == "'a\\nb; rm'"
    assert len(quoted("x" * 5000)) < 200
