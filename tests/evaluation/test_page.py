"""The page stands alone, says everything, and cannot be broken by a name."""

from __future__ import annotations

import csv
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from nnunetv2_ext.evaluation.evaluate import Evaluation, write_evaluation
from nnunetv2_ext.evaluation.metrics import METRICS
from nnunetv2_ext.evaluation.summary import CaseMetrics, summarise
from nnunetv2_ext.utilities.errors import UserError

NAMES = {"1": "A/<b>liver</b> & $x_1$", "2": "B/spleen", "3": "B/never"}


@pytest.fixture
def evaluation(tmp_path):
    rng = np.random.default_rng(0)
    cases = []
    for number in range(6):
        keys = ("1",) if number < 3 else ("2", "3")
        metrics = {key: dict(zip(METRICS, rng.random(len(METRICS)).tolist(), strict=True)) for key in keys}
        if "3" in metrics:
            metrics["3"] |= dict.fromkeys(("Dice", "HD95", "SurfaceDice", "RelativeVolumeError"), float("nan"))
        source = "A" if number < 3 else "B"
        cases.append(CaseMetrics(f"case_{number}", source, tmp_path / "gt", tmp_path / "pred", metrics))
    return Evaluation(summarise(cases, NAMES), tuple(cases), ("Case <x> is bad & gone.",))


def test_the_page_is_self_contained_and_well_formed(evaluation, tmp_path):
    write_evaluation(evaluation, tmp_path, "Evaluation of <pred>")
    page = (tmp_path / "evaluation.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 4
    assert not re.findall(r'(?:src|href)="(?!#|data:)', page.replace("xlink:href", "")), (
        "nothing is loaded from elsewhere"
    )
    assert "<b>liver" not in page
    assert page.count("A/&lt;b&gt;liver&lt;/b&gt; &amp; $x_1$") >= 5, "in both tables and the plots"
    assert "Case &lt;x&gt; is bad &amp; gone." in page
    assert f"<strong>{evaluation.summary['foreground_mean']['Dice']:.3f}</strong>" in page
    for drawing in re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL):
        ElementTree.fromstring(drawing)
        assert "B/spleen" in drawing
        assert "B/never" not in drawing, "a class without numbers has no box"


def test_the_table_holds_every_number(evaluation, tmp_path):
    write_evaluation(evaluation, tmp_path, "Evaluation")
    with open(tmp_path / "metrics.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 9
    assert [row["class"] for row in rows[:1]] == [NAMES["1"]]
    for row in rows:
        (case,) = (case for case in evaluation.cases if case.case == row["case"])
        for metric in METRICS:
            value = case.metrics[row["label"]][metric]
            assert row[metric] == "" if np.isnan(value) else float(row[metric]) == value


def test_results_are_not_overwritten_unasked(evaluation, tmp_path):
    write_evaluation(evaluation, tmp_path, "Evaluation")
    with pytest.raises(UserError, match="exists already"):
        write_evaluation(evaluation, tmp_path, "Evaluation")
    write_evaluation(evaluation, tmp_path, "Another", overwrite=True)
    assert "Another" in (tmp_path / "evaluation.html").read_text()
