"""The tour's table."""

from __future__ import annotations

import json

import pytest

from nnunetv2_ext.demo.results import DiceTable, read_summary


def test_means_and_file(tmp_path):
    table = DiceTable({"one": {"liver": 0.9, "spleen": 0.5}, "two": {"liver": 1.0}})
    assert table.mean("one") == pytest.approx(0.7)
    table.save(tmp_path / "dice.json")
    assert json.loads((tmp_path / "dice.json").read_text()) == {
        "one": {"liver": 0.9, "spleen": 0.5, "mean": 0.7},
        "two": {"liver": 1.0, "mean": 1.0},
    }
    lines = [line.split() for line in str(table).splitlines()]
    assert ["one", "liver", "0.900"] in lines
    assert ["one", "mean", "0.700"] in lines


def test_reads_what_the_evaluation_writes(tmp_path):
    import numpy as np
    import SimpleITK

    from nnunetv2_ext.evaluation.evaluate import evaluate_folder, write_evaluation

    reference = np.zeros((4, 8, 8), np.uint8)
    reference[:, :4, :4] = 1  # 64 voxels
    reference[:, 4:, 4:] = 2
    prediction = np.where(reference == 2, 2, 0).astype(np.uint8)
    prediction[:, :4, :2] = 1  # 32 voxels, all inside: Dice 2 * 32 / (64 + 32)
    for folder, array in (("gt", reference), ("pred", prediction)):
        (tmp_path / folder).mkdir()
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array), str(tmp_path / folder / "case.nii.gz"))
    content = {"labels": {"background": 0, "liver": 1, "spleen": 2}, "file_ending": ".nii.gz"}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    evaluation = evaluate_folder(tmp_path / "gt", tmp_path / "pred", dataset_json=tmp_path / "dataset.json")
    write_evaluation(evaluation, tmp_path / "out", "test")
    assert read_summary(tmp_path / "out" / "summary.json") == pytest.approx({"liver": 2 / 3, "spleen": 1.0})
