from __future__ import annotations

import json

import numpy as np
import pytest


@pytest.fixture
def folders(tmp_path):
    """References of two sources, one of which annotates bones only, and predictions of leaves."""
    import SimpleITK as sitk

    tree = {"background": {}, "body": {"bones": {"rib": {}, "hip": {}}, "rest": {}}}
    labels = {"background": 0, "body": 1, "bones": 2, "rib": 3, "hip": 4, "rest": 5}
    content = {
        "labels": labels,
        "label_tree": tree,
        "partial_labels": {
            "A": {"classes": ["bones"], "cases": ["A_1"]},
            "B": {"classes": ["rib", "hip"], "cases": ["B_1"]},
        },
        "channel_names": {"0": "CT"},
        "file_ending": ".nii.gz",
        "numTraining": 2,
    }
    truth, found = np.zeros((2, 4, 8, 8), np.uint8)
    truth[1, 1:5, 1:5], truth[2, 1:5, 1:5] = 3, 4
    found[1, 1:5, 2:6], found[2, 1:5, 2:6] = 3, 3
    (tmp_path / "gt").mkdir()
    (tmp_path / "pred").mkdir()
    maps = {"gt/A_1": np.where(truth > 0, 2, 0), "gt/B_1": truth, "pred/A_1": found, "pred/B_1": found}
    for name, array in maps.items():
        sitk.WriteImage(sitk.GetImageFromArray(array.astype(np.uint8)), str(tmp_path / f"{name}.nii.gz"))
    for folder in ("gt", "pred"):
        (tmp_path / folder / "dataset.json").write_text(json.dumps(content))
    return tmp_path


def test_inner_nodes_are_scored_where_the_source_determines_them(folders):
    from nnunetv2_ext.cli import evaluate

    arguments = ["-gt", str(folders / "gt"), "-pred", str(folders / "pred"), "-np", "1", "--quiet"]
    assert evaluate.main(arguments) == 0
    summary = json.loads((folders / "pred" / "summary.json").read_text())
    metrics = {case["reference_file"].split("/")[-1][0]: case["metrics"] for case in summary["metric_per_case"]}
    assert set(metrics["A"]) == {"(2, 3, 4)"}
    assert set(metrics["B"]) == {"(2, 3, 4)", "3", "4"}
    for case in "AB":
        assert metrics[case]["(2, 3, 4)"]["Dice"] == pytest.approx(2 * 24 / 64)
