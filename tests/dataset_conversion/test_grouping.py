"""Which cases belong to one patient."""

import json

import pytest

from nnunetv2_ext.dataset_conversion.duplicates import joined
from nnunetv2_ext.dataset_conversion.grouping import read_groups
from nnunetv2_ext.utilities.errors import UserError

CASES = ["p1_a", "p1_b", "p2_a"]


def test_patients_come_from_files_or_names(tmp_path):
    table, mapping = tmp_path / "patients.csv", tmp_path / "patients.json"
    table.write_text("case,age,patient\np1_a,60,x\np1_b,61,x\np2_a,9,y\n", encoding="utf-8")
    mapping.write_text(json.dumps({"p1_a": "x", "p1_b": "x", "p2_a": "y", "other": "z"}), encoding="utf-8")
    for given in (str(table), str(mapping), "(p.)_", r"^p\d"):
        assert read_groups(given, CASES) == [["p1_a", "p1_b"], ["p2_a"]]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("p1", "'p1' says nothing of p2_a"),
        ("(", "is none"),
        ("nowhere.json", "Expected the file nowhere.json"),
        ("nowhere.csv", "cannot be read"),
    ],
)
def test_what_says_nothing_of_a_case_is_refused(given, sentence):
    with pytest.raises(UserError, match=sentence):
        read_groups(given, CASES)


def test_groups_with_a_common_case_become_one():
    assert joined([["b", "a"], ["c"], ["d", "e"], ["e", "a"], ["f", "g"]]) == [("a", "b", "d", "e"), ("f", "g")]
