"""The guided tour: every command it shows exists with these flags; the whole of it runs in small."""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys

import pytest

from nnunetv2_ext.demo.commands import executable
from nnunetv2_ext.demo.tour import SOURCES, TARGET, TourSize, as_text, read_dice, take_tour
from nnunetv2_ext.utilities.errors import UserError

SMALL = TourSize(
    training_cases=5,
    test_cases=1,
    pretraining_epochs=1,
    finetuning_epochs=1,
    iterations_per_epoch=1,
    spacing=12.0,
)


def run_in_process(command, environment, log):
    """Calls the installed entry point in this process: imports of torch and nnU-Net are paid once."""
    (entry_point,) = importlib.metadata.entry_points(group="console_scripts", name=command[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", list(command))
        for name, value in environment.items():
            patch.setenv(name, value)
        assert not entry_point.load()(), command


def test_sources_overlap_and_contradict_each_other():
    classes = [set(protocol.classes) for protocol in SOURCES]
    assert classes[0] & classes[1]
    assert classes[1] & classes[2]
    assert SOURCES[0].classes["liver"] != SOURCES[1].classes["liver"]
    known = {structure for protocol in SOURCES for parts in protocol.classes.values() for structure in parts}
    assert {part for parts in TARGET.classes.values() for part in parts} - known == {"lungs"}


def test_commands_are_shown_and_exist(tmp_path, caplog):
    """The steps up to the first prediction, with a runner that only takes notes."""
    seen = []

    def note(command, environment, log):
        seen.append(list(command))
        assert environment["nnUNet_raw"] == str(tmp_path / "demo" / "nnUNet_raw")
        if command[0] == "nnUNetv2_ext_predict":
            raise UserError("seen enough")

    with caplog.at_level("INFO", "nnunetv2_ext"), pytest.raises(UserError, match="seen enough"):
        take_tour(tmp_path / "demo", keep=True, size=SMALL, runner=note)
    assert len(seen) == 6
    for command in seen:
        assert f"$ {command[0]} " in caplog.text
        assert executable(command[0])
    datasets = os.listdir(tmp_path / "demo" / "nnUNet_raw")
    assert {protocol.folder_name for protocol in (*SOURCES, TARGET)} == set(datasets)


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
    dice = read_dice(tmp_path / "out" / "summary.json")
    assert dice == pytest.approx({"liver": 2 / 3, "spleen": 1.0, "mean": 5 / 6})
    assert ["one", "liver", "0.667"] in [line.split() for line in as_text({"one": dice}).splitlines()]


def test_full_folder_is_left_alone(tmp_path):
    (tmp_path / "precious").write_text("data")
    with pytest.raises(UserError, match="not empty"):
        take_tour(tmp_path, keep=False)
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


@pytest.mark.slow
def test_whole_tour_in_small(tmp_path):
    """From data to table and picture with one training iteration; the accuracy is the full tour's affair."""
    table = take_tour(tmp_path / "demo", keep=False, size=SMALL, runner=run_in_process)
    assert set(table[f"fine-tuned: {TARGET.name}"]) == {*TARGET.classes, "mean"}
    assert len(table) == len(SOURCES) + 1
    assert all(0 <= dice <= 1 for classes in table.values() for dice in classes.values())
    assert json.loads((tmp_path / "demo" / "dice.json").read_text(encoding="utf-8")) == table
    page = tmp_path / "demo" / "evaluation" / TARGET.folder_name / "evaluation.html"
    assert page.read_text(encoding="utf-8").count("<img") == SMALL.test_cases
    assert not (tmp_path / "demo" / "nnUNet_raw").exists()
