from __future__ import annotations

import json

import numpy as np
import pytest

from nnunetv2_ext.training.dataloading.case_weights import read_case_weights, weighted
from nnunetv2_ext.utilities.errors import UserError

CASES = ["a", "b", "c"]


@pytest.mark.parametrize(
    ("name", "content"),
    [("weights.json", json.dumps({"a": 3, "c": 0})), ("weights.csv", "case,weight\na,3\nc,0\n")],
)
def test_weights_are_read(tmp_path, name, content):
    (tmp_path / name).write_text(content, encoding="utf-8")
    weights = read_case_weights(tmp_path / name, CASES)
    np.testing.assert_allclose(weighted(None, CASES, weights), [0.75, 0.25, 0])
    np.testing.assert_allclose(weighted([0.2, 0.4, 0.4], CASES, weights), [0.6, 0.4, 0])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("weights.json", '{"d": 1}', "d.? is none"),
        ("weights.json", '{"a": -1}', "Expected a number .0 or more. as a"),
        ("weights.json", '{"a": "much"}', "as a in"),
        ("weights.csv", "case,weight\na,much\n", "Expected numbers in the column weight"),
        ("weights.csv", "name,weight\na,1\n", "case"),
        ("weights.json", "[", "JSON"),
    ],
)
def test_what_is_no_weight_is_refused(tmp_path, name, content, message):
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        read_case_weights(tmp_path / name, CASES)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"weights\.json"):
        read_case_weights(tmp_path / "weights.json", CASES)


def test_some_case_must_be_drawn():
    with pytest.raises(UserError, match="weight above 0"):
        weighted(None, ["a"], {"a": 0})
