from __future__ import annotations

import json
import math

import numpy as np
import pytest

from nnunetv2_ext.labels.partial_labels import PartialLabels, Source
from nnunetv2_ext.training.validation_per_source import group_cases, merge_summaries

LABELS = PartialLabels(
    {"A/liver": (1, 2), "A/tumour": (2,), "B/spleen": (3,)},
    {
        "A": Source(("A/liver", "A/tumour"), ("A_1", "A_2", "A_3"), {"A_3": ("A/tumour",)}),
        "B": Source(("B/spleen",), ("B_1", "B_2"), {"B_2": ("B/spleen",)}),
    },
)


def test_cases_are_grouped_by_source_and_annotated_classes():
    kinds = group_cases(LABELS, ["B_2", "A_3", "B_1", "A_2", "A_1"])
    assert [(kind.source, kind.classes, kind.cases) for kind in kinds] == [
        ("A", (0,), ("A_3",)),
        ("A", (0, 1), ("A_2", "A_1")),
        ("B", (2,), ("B_1",)),
        # B_2 annotates nothing, so there is nothing to evaluate.
    ]
    assert [kind.number for kind in kinds] == [0, 1, 2]


def test_nnunet_sees_a_dataset_of_the_kinds_classes():
    kind = group_cases(LABELS, ["A_1"])[0]
    whole = {
        "labels": {"background": 0, "A/liver": [1, 2], "A/tumour": [2, 2], "B/spleen": [3, 3], "ignore": 4},
        "regions_class_order": [1, 2, 3],
        "file_ending": ".nii.gz",
    }
    assert kind.dataset_json(whole) == {
        "labels": {"background": 0, "A/liver": [1, 2], "A/tumour": [2, 2]},
        "regions_class_order": [1, 2],
        "file_ending": ".nii.gz",
    }


def test_summaries_are_merged_class_by_class(tmp_path):
    kinds = group_cases(LABELS, ["A_1", "A_3", "B_1"])
    dice = {"A_1": {"(1, 2)": 0.5, "(2, 2)": math.nan}, "A_3": {"(1, 2)": 0.9}, "B_1": {"(3, 3)": 0.2}}
    for kind in kinds:
        folder = kind.folder(tmp_path) / "validation"
        folder.mkdir(parents=True)
        cases = []
        for case in kind.cases:
            (folder / f"{case}.nii.gz").write_text(case)
            np.savez_compressed(folder / f"{case}.npz", probabilities=np.full((len(kind.classes), 2, 3, 4), 0.5))
            metrics = {region: {"Dice": value, "TP": 1} for region, value in dice[case].items()}
            cases.append({"reference_file": "x", "prediction_file": str(folder / f"{case}.nii.gz"), "metrics": metrics})
        (folder / "summary.json").write_text(json.dumps({"metric_per_case": cases}))

    names = {"(1, 2)": "A/liver", "(2, 2)": "A/tumour", "(3, 3)": "B/spleen"}
    summary = merge_summaries(tmp_path, kinds, names)

    assert summary["mean"]["(1, 2)"]["Dice"] == pytest.approx(0.7)
    assert math.isnan(summary["mean"]["(2, 2)"]["Dice"])
    assert summary["foreground_mean"]["Dice"] == pytest.approx((0.7 + 0.2) / 2)
    validation = tmp_path / "validation"
    assert sorted(file.name for file in validation.iterdir()) == [
        "A_1.nii.gz", "A_1.npz", "A_3.nii.gz", "A_3.npz", "B_1.nii.gz", "B_1.npz",
        "summary.json", "summary_A.json", "summary_B.json",
    ]  # fmt: skip
    # nnU-Net's ensembling wants the probabilities of all classes.
    for case, own in (("A_1", [0.5, 0.5, 0]), ("A_3", [0.5, 0, 0]), ("B_1", [0, 0, 0.5])):
        probabilities = np.load(validation / f"{case}.npz")["probabilities"]
        assert probabilities.shape == (3, 2, 3, 4)
        assert probabilities[:, 0, 0, 0].tolist() == own
    assert [file.name for file in tmp_path.iterdir()] == ["validation"]
    of_b = json.loads((validation / "summary_B.json").read_text())
    assert of_b["class_names"] == {"(3, 3)": "B/spleen"}
    assert of_b["foreground_mean"]["Dice"] == pytest.approx(0.2)
    from nnunetv2.evaluation.evaluate_predictions import load_summary_json

    assert set(load_summary_json(str(validation / "summary.json"))["mean"]) == {(1, 2), (2, 2), (3, 3)}
