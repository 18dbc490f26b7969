"""The same command again: what a first run was told holds for those that go on from it, and nothing is replaced."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import nnunetv2.run.run_training as stock_command
import pytest
import torch
from nnunetv2.training.logging.nnunet_logger import LocalLogger
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunetv2_ext.cli import finetune, train
from nnunetv2_ext.training.trainers.base import ExtTrainer

TRAINER = "FineTuneTrainer_unet"
SHORT = ("--num_epochs", "2", "--iterations_per_epoch", "1", "--val_iterations_per_epoch", "1", "--batch_size", "2",
         "--num_workers", "0", "--warmup_heads", "1", "--warmup_network", "0", "--save_every", "1",
         "--seed", "4")  # fmt: skip


@pytest.fixture(autouse=True)
def no_final_validation(monkeypatch):
    """Training alone: final validation and drawings of nnU-Net take seconds and are tested elsewhere."""
    validated = []
    for trainer in (nnUNetTrainer, ExtTrainer):
        monkeypatch.setattr(trainer, "perform_actual_validation", lambda self, _=False: validated.append(self))
    monkeypatch.setattr(nnUNetTrainer, "plot_network_architecture", lambda self: None)
    monkeypatch.setattr(LocalLogger, "plot_progress_png", lambda self, folder: None)
    usual = nnUNetTrainer.on_epoch_start

    def start(self):
        assert self.num_epochs < 10, "the number of epochs was forgotten"
        usual(self)

    monkeypatch.setattr(nnUNetTrainer, "on_epoch_start", start)
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    monkeypatch.setenv("nnUNetv2_ext_allow_fresh_start", "0")
    return validated


def _train(*flags, trainer=TRAINER):
    return train.main(["7", "3d_fullres", "0", "-tr", trainer, "-device", "cpu", "--quiet", *flags])


def _fold(dataset, trainer=TRAINER):
    return Path(os.environ["nnUNet_results"]) / dataset / f"{trainer}__nnUNetPlans__3d_fullres" / "fold_0"


def _checkpoint(dataset, trainer=TRAINER):
    return torch.load(_fold(dataset, trainer) / "checkpoint_final.pth", weights_only=False)


def _die_in_epoch(monkeypatch, number):
    """Ends the training as Ctrl-C does after the steps of an epoch."""
    usual = nnUNetTrainer.on_train_epoch_end

    def die(self, outputs):
        if self.current_epoch == number:
            raise KeyboardInterrupt
        usual(self, outputs)

    monkeypatch.setattr(nnUNetTrainer, "on_train_epoch_end", die)


def test_a_finished_training_is_replaced_only_when_asked_and_complete(tiny_dataset, capsys, monkeypatch):
    assert _train(*SHORT) == 0
    file = _fold(tiny_dataset) / "checkpoint_final.pth"
    before = file.read_bytes()
    capsys.readouterr()
    assert _train(*SHORT) == 2
    assert "there is checkpoint_final.pth; go on with --c, or train anew with --overwrite" in capsys.readouterr().err
    assert file.read_bytes() == before

    with monkeypatch.context() as patch:
        _die_in_epoch(patch, 0)
        assert _train(*SHORT, "--overwrite") == 130
    # What was complete is still there, and nothing that --c would take for the new training.
    assert (file.parent / "replaced" / file.name).read_bytes() == before
    assert not file.exists()
    assert _train(*SHORT, "--overwrite") == 0
    assert file.is_file()
    assert not (file.parent / "replaced").exists()


def test_what_goes_on_is_what_began(tiny_dataset, monkeypatch):
    """Bit by bit: options, optimiser, schedule and random numbers come from the checkpoint."""
    finished = _fold(tiny_dataset) / "checkpoint_final.pth"
    assert _train(*SHORT) == 0
    undisturbed = _checkpoint(tiny_dataset)
    finished.unlink()
    (finished.parent / "checkpoint_best.pth").unlink()
    with monkeypatch.context() as patch:
        _die_in_epoch(patch, 2)
        assert _train(*SHORT) == 130
    assert _train("--c") == 0
    resumed = _checkpoint(tiny_dataset)
    assert resumed["current_epoch"] == undisturbed["current_epoch"] == 3
    assert resumed["logging"]["lrs"] == undisturbed["logging"]["lrs"]
    for name, value in undisturbed["network_weights"].items():
        assert torch.equal(resumed["network_weights"][name], value), name
    finished.unlink()
    (finished.parent / "checkpoint_best.pth").unlink()
    assert _train(*SHORT) == 0
    again = _checkpoint(tiny_dataset)["network_weights"]
    assert all(torch.equal(again[name], value) for name, value in undisturbed["network_weights"].items())


def test_flags_count_more_than_the_first_run(tiny_dataset):
    assert _train(*SHORT) == 0
    assert _train("--c", "--num_epochs", "3") == 0
    assert _checkpoint(tiny_dataset)["current_epoch"] == 4
    logs = "".join(file.read_text(encoding="utf-8") for file in _fold(tiny_dataset).glob("training_log_*.txt"))
    assert "--num_epochs is 3 from here on; the training began with 2." in logs
    # What was given then counts in the next run.
    assert _train("--c") == 0
    assert _checkpoint(tiny_dataset)["current_epoch"] == 4


@pytest.mark.parametrize("flag", ["--val", "--c"])
@pytest.mark.parametrize("command", ["ours", "stock"])
def test_a_finished_training_is_validated_with_its_own_options(
    tiny_dataset, flag, command, monkeypatch, no_final_validation
):
    assert _train(*SHORT) == 0
    if command == "ours":
        assert _train(flag) == 0
    else:
        words = ["nnUNetv2_train", "7", "3d_fullres", "0", "-tr", TRAINER, "-device", "cpu", flag]
        monkeypatch.setattr(sys, "argv", words)
        stock_command.run_training_entry()
    *_, trainer = no_final_validation
    # One epoch of heads and two of all; nothing was trained again.
    assert (trainer.num_epochs, trainer.current_epoch) == (3, 3)
    if flag == "--val":
        assert not trainer.optimizer.state_dict()["state"]
    assert _checkpoint(tiny_dataset)["current_epoch"] == 3


def test_trainers_of_nnunet_go_on_with_their_options_too(tiny_dataset, no_final_validation):
    assert _train(*SHORT[:10], trainer="nnUNetTrainer") == 0
    assert _train("--c", trainer="nnUNetTrainer") == 0
    assert no_final_validation[-1].num_epochs == 2


def test_validation_without_a_checkpoint_is_refused(tiny_dataset, capsys):
    assert _train("--val") == 2
    assert "--val expects a finished training in" in capsys.readouterr().err


def test_weights_from_within_the_fold_that_is_trained_are_refused(tiny_dataset, capsys):
    assert _train(*SHORT) == 0
    file = _fold(tiny_dataset) / "checkpoint_final.pth"
    before = file.read_bytes()
    copy = file.with_name("mine.pth")
    copy.write_bytes(before)
    for source in (file, copy):
        assert _train(*SHORT, "-pretrained_weights", str(source)) == 2
        assert "overlap" in capsys.readouterr().err
    flags = ["7", "3d_fullres", "0", "-tr", TRAINER, "-p", "nnUNetPlans", "-device", "cpu"]
    assert finetune.main([*flags, "-pretrained_weights", str(file.parent)]) == 2
    assert "overlap" in capsys.readouterr().err
    assert file.read_bytes() == before


def test_a_wrong_setting_is_named(tiny_dataset, monkeypatch, capsys):
    monkeypatch.setenv("nnUNetv2_ext_settings", json.dumps({"num_epochs": "many"}))
    assert _train() == 2
    assert "Expected an integer (1 or more) as num_epochs in the variable" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "changes", "sentence"),
    [
        (
            "dataset.json",
            {"file_ending": "/../../../victim/x.nii.gz"},
            "as 'file_ending' in the dataset.json of this training, but found",
        ),
        (
            "nnUNetPlans.json",
            {"image_reader_writer": "NobodysReader"},
            "as image_reader_writer in the plans of this training, but found 'NobodysReader'",
        ),
    ],
    ids=["an ending that leads elsewhere", "a reader that nnU-Net does not know"],
)
def test_what_the_final_validation_cannot_write_with_is_refused(tiny_dataset, capsys, name, changes, sentence):
    file = Path(os.environ["nnUNet_preprocessed"]) / tiny_dataset / name
    content = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**content, **changes}), encoding="utf-8")
    assert _train(*SHORT) == 2
    assert sentence in capsys.readouterr().err


def test_cases_of_a_fold_that_are_not_there_are_named(tiny_dataset, capsys):
    folds = [{"train": ["case_0", "case_77"], "val": ["case_1"]}]
    file = Path(os.environ["nnUNet_preprocessed"]) / tiny_dataset / "splits_final.json"
    file.write_text(json.dumps(folds), encoding="utf-8")
    assert _train(*SHORT) == 2
    assert "but 1 of 3 are missing (case_77); preprocess them" in capsys.readouterr().err


@pytest.mark.parametrize("variable", ["nnUNet_results", "nnUNet_preprocessed"])
@pytest.mark.parametrize("below", ["", "below"])
@pytest.mark.parametrize("main", [train.main, finetune.main])
def test_files_in_the_place_of_folders_are_named(tiny_dataset, tmp_path, monkeypatch, capsys, variable, below, main):
    file = tmp_path / "a_file"
    file.write_text("", encoding="utf-8")
    monkeypatch.setenv(variable, str(file / below))
    weights = tmp_path / "weights.pth"
    torch.save({}, weights)
    flags = ["7", "3d_fullres", "0", "-device", "cpu", "-pretrained_weights", str(weights)]
    assert main(flags) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "a_file" in error


def test_a_file_in_the_place_of_the_datasets_results_is_named(tiny_dataset, capsys):
    (Path(os.environ["nnUNet_results"]) / tiny_dataset).write_text("", encoding="utf-8")
    assert _train(*SHORT) == 2
    error = capsys.readouterr().err
    assert f"nnUNet_results/{tiny_dataset}, but there is a file in its place" in error
    assert "Traceback" not in error
