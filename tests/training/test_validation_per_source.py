from __future__ import annotations

import json
import math
import multiprocessing
from multiprocessing.pool import ThreadPool
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.evaluation.evaluate_predictions import load_summary_json
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from nnunetv2_ext.labels.partial_labels import PartialLabels, Source
from nnunetv2_ext.training.validation_per_source import _summarise, evaluate_per_source, group_cases

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


def test_summaries_are_of_the_annotated_classes(tmp_path, monkeypatch):
    """Each case counts with its own classes, and one pool of processes evaluates all of them."""
    pools = []

    class Pool(ThreadPool):
        def __init__(self, processes):
            pools.append(processes)
            super().__init__(processes)

    real, spawned = multiprocessing.get_context, SimpleNamespace(Pool=Pool)
    monkeypatch.setattr("multiprocessing.get_context", lambda name=None: spawned if name == "spawn" else real(name))
    reference = np.zeros((4, 4, 4), np.uint8)
    reference[0], reference[1], reference[2] = 1, 2, 3
    predicted = {"A_1": reference.copy(), "A_3": reference.copy(), "B_1": reference.copy()}
    predicted["A_1"][1] = 0  # no tumour, half the liver
    predicted["B_1"][3] = 3  # the spleen twice
    (tmp_path / "gt_segmentations").mkdir()
    (tmp_path / "validation").mkdir()
    for case, labels in predicted.items():
        sitk.WriteImage(sitk.GetImageFromArray(reference), str(tmp_path / "gt_segmentations" / f"{case}.nii.gz"))
        sitk.WriteImage(sitk.GetImageFromArray(labels), str(tmp_path / "validation" / f"{case}.nii.gz"))
    trainer = SimpleNamespace(
        output_folder=str(tmp_path),
        preprocessed_dataset_folder_base=str(tmp_path),
        dataset_json={"file_ending": ".nii.gz"},
        plans_manager=SimpleNamespace(image_reader_writer_class=SimpleITKIO),
        label_manager=SimpleNamespace(ignore_label=None),
        is_ddp=False,
    )
    kinds = group_cases(LABELS, ["A_1", "A_3", "B_1"])
    names = {(1, 2): "A/liver", (2,): "A/tumour", (3,): "B/spleen"}
    summary = evaluate_per_source(trainer, kinds, names)

    assert len(pools) == 1
    metrics = {Path(case["prediction_file"]).name[:3]: case["metrics"] for case in summary["metric_per_case"]}
    assert {case: set(of_case) for case, of_case in metrics.items()} == {
        "A_1": {"(1, 2)", "(2,)"},
        "A_3": {"(1, 2)"},
        "B_1": {"(3,)"},
    }
    assert metrics["A_1"]["(1, 2)"]["Dice"] == pytest.approx(2 / 3)
    assert summary["mean"]["(1, 2)"]["Dice"] == pytest.approx((2 / 3 + 1) / 2)
    assert summary["mean"]["(2,)"]["Dice"] == 0
    assert summary["foreground_mean"]["Dice"] == pytest.approx(((2 / 3 + 1) / 2 + 0 + 2 / 3) / 3)
    of_b = json.loads((tmp_path / "validation" / "summary_B.json").read_text())
    assert of_b["class_names"] == {"(3,)": "B/spleen"}
    assert of_b["foreground_mean"]["Dice"] == pytest.approx(2 / 3)
    whole = load_summary_json(str(tmp_path / "validation" / "summary.json"))
    assert set(whole["mean"]) == {(1, 2), (2,), (3,)}


def test_a_class_that_occurs_nowhere_has_no_dice_and_is_left_out():
    cases = [{"metrics": {"(1,)": {"Dice": 0.5}, "(2,)": {"Dice": math.nan}}}]
    summary = _summarise(cases, {"(1,)": "liver", "(2,)": "tumour", "(3,)": "spleen"})
    assert summary["class_names"] == {"(1,)": "liver", "(2,)": "tumour"}
    assert math.isnan(summary["mean"]["(2,)"]["Dice"])
    assert summary["foreground_mean"]["Dice"] == 0.5
