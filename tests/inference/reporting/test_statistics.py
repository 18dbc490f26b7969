"""Volume and intensity per class."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunetv2_ext.inference.reporting.statistics import gather_statistics, label_statistics
from nnunetv2_ext.utilities.files import write_json

NAMES = {1: "liver", 3: "spleen", 5: "absent"}


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 9999), level=st.floats(-1e5, 1e5))
def test_figures_are_those_of_numpy_on_each_mask(seed, level):
    random = np.random.default_rng(seed)
    labels = random.choice([0, 1, 3], size=(3, 4, 5)).astype(np.uint8)
    image = (random.normal(size=labels.shape) * 20 + level).astype(np.float32)
    figures = label_statistics(labels, image, NAMES, 0.25)
    for value in (1, 3):
        inside = image[labels == value].astype(np.float64)
        found = figures[NAMES[value]]
        assert found["voxels"] == inside.size
        assert found["volume_ml"] == pytest.approx(inside.size * 0.25)
        if inside.size:
            assert found["mean_intensity"] == pytest.approx(inside.mean(), abs=1e-6 + abs(level) * 1e-9)
            assert found["sd_intensity"] == pytest.approx(inside.std(), abs=1e-4)
    assert figures["absent"] == {"voxels": 0, "volume_ml": 0.0, "mean_intensity": None, "sd_intensity": None}


def test_cases_are_gathered_into_json_and_csv_also_those_of_earlier_runs(tmp_path):
    labels = np.array([[[0, 1, 1, 3]]], np.uint8)
    image = np.array([[[0.0, 10.0, 20.0, -5.0]]])
    for case in ("b", "a"):
        figures = label_statistics(labels, image, NAMES, 0.5)
        write_json({"case": case, "classes": figures}, tmp_path / "statistics" / f"{case}.json")
    gather_statistics(tmp_path, ["a", "b", "never predicted"])
    content = json.loads((tmp_path / "statistics.json").read_text())
    assert list(content) == ["a", "b"]
    expected = {"voxels": 2, "volume_ml": 1.0, "mean_intensity": 15.0, "sd_intensity": 5.0}
    assert content["a"]["liver"] == pytest.approx(expected)
    rows = list(csv.DictReader((tmp_path / "statistics.csv").open()))
    assert [(row["case"], row["class"], row["volume_ml"], row["mean_intensity"]) for row in rows[:3]] == [
        ("a", "liver", "1.0", "15.0"),
        ("a", "spleen", "0.5", "-5.0"),
        ("a", "absent", "0.0", ""),
    ]
    assert len(rows) == 6
