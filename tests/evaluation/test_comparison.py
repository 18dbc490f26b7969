"""Comparisons of two predictions, against a bootstrap written as in a textbook."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from nnunetv2_ext.cli.evaluate import main
from nnunetv2_ext.evaluation.comparison import COMPARED, compare_predictions
from nnunetv2_ext.evaluation.summary import CaseMetrics
from nnunetv2_ext.utilities.errors import UserError

NAMES = {"1": "liver", "2": "spleen"}


def _cases(values, missing=()):
    """Values (cases, classes), the same for every metric; pairs of (case, class) that have no number."""
    cases = []
    for number, row in enumerate(values):
        metrics = {key: dict.fromkeys(COMPARED, float(value)) for key, value in zip(NAMES, row, strict=True)}
        for case, key in missing:
            if case == number:
                metrics[key] = dict.fromkeys(COMPARED, float("nan"))
        cases.append(CaseMetrics(f"case{number}", "", Path(), Path(), metrics))
    return cases


def test_intervals_are_those_of_resampled_cases():
    rng = np.random.default_rng(0)
    one, other = rng.random((30, 2)), rng.random((30, 2)) - 0.1
    found = compare_predictions(_cases(one), _cases(other)[::-1], NAMES)
    draws = rng.integers(0, 30, (4000, 30))
    for key, differences in (("1", (one - other)[:, 0]), ("2", (one - other)[:, 1]), (None, (one - other).mean(1))):
        figures = found["mean"]["Dice"] if key is None else found["classes"][key]["Dice"]
        assert figures["difference"] == pytest.approx(differences.mean())
        assert figures["interval"] == pytest.approx(np.percentile(differences[draws].mean(1), [2.5, 97.5]), abs=0.02)
        assert figures["cases"] == 30
    assert found["classes"]["1"]["HD95"]["value"] == pytest.approx(one[:, 0].mean())
    assert found["classes"]["1"]["HD95"]["other"] == pytest.approx(other[:, 0].mean())


def test_pairs_without_a_number_are_left_out():
    one, other = np.full((4, 2), 0.9), np.full((4, 2), 0.5)
    other[0, 0] = -100
    found = compare_predictions(_cases(one), _cases(other, missing=[(0, "1"), *((n, "2") for n in range(4))]), NAMES)
    assert found["classes"]["1"]["Dice"]["cases"] == 3
    assert found["classes"]["1"]["Dice"]["interval"] == pytest.approx([0.4, 0.4])
    assert found["classes"]["2"] == {}
    assert found["mean"]["Dice"]["difference"] == pytest.approx(0.4)
    with pytest.raises(UserError, match="none was scored in both"):
        compare_predictions(_cases(one)[:1], _cases(one)[1:], NAMES)
    single = compare_predictions(_cases(one)[:1], _cases(other)[:1], NAMES)
    assert np.isnan(single["mean"]["Dice"]["interval"]).all()


def test_masks_without_a_voxel_are_drawn(tmp_path, write_map, write_dataset_json):
    write_dataset_json(tmp_path, {"background": 0, "liver": 1})
    write_map(np.ones((4, 5, 6), dtype=np.uint8), tmp_path / "labelsTr" / "a.nii.gz")
    write_map(np.zeros((4, 5, 6), dtype=np.uint8), tmp_path / "pred" / "a" / "liver.nii.gz")
    assert main(["-gt", str(tmp_path / "labelsTr"), "-pred", str(tmp_path / "pred"), "-np", "1"]) == 0
    assert "<img" in (tmp_path / "pred" / "evaluation.html").read_text(encoding="utf-8")


def test_the_command_compares_and_draws(tmp_path, write_map, write_dataset_json):
    rng = np.random.default_rng(0)
    write_dataset_json(tmp_path, {"background": 0, "a <b>": 1, "spleen": 2, "ignore": 3})
    for number in range(6):
        reference = rng.integers(0, 3, (6, 8, 7)).astype(np.uint8)
        for folder, wrong in (("good", 0.1), ("bad", 0.1 * number)):
            spoilt = np.where(rng.random(reference.shape) < wrong, 0, reference)
            write_map(spoilt.astype(np.uint8), tmp_path / folder / f"x<{number}>.nii.gz")
        reference[0] = 3
        write_map(reference, tmp_path / "labelsTr" / f"x<{number}>.nii.gz")
        write_map(rng.normal(size=(6, 8, 7)), tmp_path / "imagesTr" / f"x<{number}>_0000.nii.gz")
    flags = {"-gt": "labelsTr", "-pred": "good", "--compare": "bad", "-i": "imagesTr", "-o": "out"}
    arguments = [str(word) for flag, folder in flags.items() for word in (flag, tmp_path / folder)]
    assert main([*arguments, "-np", "1", "--worst", "2"]) == 0
    comparison = json.loads((tmp_path / "out" / "comparison.json").read_text(encoding="utf-8"))
    assert comparison["cases"] == 6
    assert comparison["mean"]["Dice"]["interval"][0] > 0
    assert comparison["classes"]["2"]["Dice"]["difference"] > 0
    page = (tmp_path / "out" / "evaluation.html").read_text(encoding="utf-8")
    assert page.count('<img src="data:image/png;base64,iVBOR') == 2
    assert f"Difference from {tmp_path / 'bad'}" in page
    assert "a &lt;b&gt;" in page
    assert "<b>" not in page
    assert "x&lt;" in page
    assert "x<" not in page
    assert main([*arguments[:4], *arguments[6:], "-np", "1", "--overwrite"]) == 0
    assert not (tmp_path / "out" / "comparison.json").exists()
    write_map(rng.normal(size=(5, 8, 7)), tmp_path / "imagesTr" / "x<0>_0000.nii.gz")
    assert main([*arguments, "-np", "1", "--worst", "6", "--overwrite"]) == 1
    assert (tmp_path / "out" / "evaluation.html").read_text(encoding="utf-8").count("<img") == 5
