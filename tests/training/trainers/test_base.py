from __future__ import annotations

import dataclasses
import inspect
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunetv2_ext.training.options import SETTINGS, SETTINGS_VARIABLE, TrainingOptions
from nnunetv2_ext.training.run_training import TrainingRun, make_trainer, run_training
from nnunetv2_ext.training.trainers.base import ALLOW_FRESH_START, ExtTrainer
from nnunetv2_ext.utilities.errors import UserError

SHORT = TrainingOptions(
    num_epochs=2, iterations_per_epoch=2, val_iterations_per_epoch=1, batch_size=2, save_every=1, seed=1, num_workers=0
)


def run_of(dataset: str, trainer: str, **changes) -> TrainingRun:
    return TrainingRun(dataset, "3d_fullres", 0, trainer, device="cpu", **{"options": SHORT, **changes})


def test_constructor_has_nnunets_parameters():
    # nnU-Net stores the arguments under the names that it finds in the signature.
    assert list(inspect.signature(ExtTrainer).parameters) == list(inspect.signature(nnUNetTrainer).parameters)


def test_defaults_are_nnunets(tiny_dataset):
    stock = make_trainer(run_of(tiny_dataset, "nnUNetTrainer", options=TrainingOptions()))
    ours = make_trainer(run_of(tiny_dataset, "STUNetTrainer_small", options=TrainingOptions()))
    settings = [name for name in SETTINGS if hasattr(stock, name)]
    assert len(settings) == 8
    differing = {name for name in settings if getattr(stock, name) != getattr(ours, name)}
    assert differing == {"save_every"}
    assert ours.save_every == 25


def test_options_reach_the_trainer(tiny_dataset):
    options = TrainingOptions(num_epochs=7, initial_lr=0.5, weight_decay=0.1, batch_size=3, oversample_foreground=1.0)
    trainer = make_trainer(run_of(tiny_dataset, "STUNetTrainer_small", options=options))
    assert (trainer.num_epochs, trainer.initial_lr, trainer.weight_decay) == (7, 0.5, 0.1)
    assert trainer.oversample_foreground_percent == 1.0
    trainer.initialize()
    assert trainer.batch_size == 3
    group = trainer.optimizer.param_groups[0]
    assert (group["lr"], group["weight_decay"]) == (0.5, 0.1)


def test_settings_reach_the_trainer_of_the_stock_command(tiny_dataset, monkeypatch):
    monkeypatch.setenv(SETTINGS_VARIABLE, '{"num_epochs": 3, "initial_lr": 0.25}')
    trainer = make_trainer(run_of(tiny_dataset, "STUNetTrainer_small", options=TrainingOptions()))
    assert (trainer.num_epochs, trainer.initial_lr, trainer.weight_decay) == (3, 0.25, 3e-5)


@pytest.mark.parametrize("text", ["{", "[1]", '{"epochs": 3}'])
def test_wrong_settings_are_refused(monkeypatch, text):
    monkeypatch.setenv(SETTINGS_VARIABLE, text)
    with pytest.raises(UserError, match=r"Expected (JSON|an object|only the entries .* as epochs).* in the variable"):
        TrainingOptions.from_environment()


def test_options_that_the_trainer_lacks_are_refused(tiny_dataset):
    with pytest.raises(UserError, match="warmup_heads"):
        make_trainer(run_of(tiny_dataset, "STUNetTrainer_small", options=TrainingOptions(warmup_heads=1)))


@pytest.mark.slow
@pytest.mark.usefixtures("threads_instead_of_processes")
def test_training_writes_checkpoints_that_are_safe_to_read_and_to_continue(tiny_dataset):
    run_training(run_of(tiny_dataset, "STUNetTrainer_small"))
    folder = (
        Path(os.environ["nnUNet_results"]) / tiny_dataset / "STUNetTrainer_small__nnUNetPlans__3d_fullres" / "fold_0"
    )
    checkpoint = torch.load(folder / "checkpoint_final.pth", weights_only=True)
    assert checkpoint["current_epoch"] == 2
    assert (folder / "validation" / "summary.json").is_file()
    assert (folder / "training_options.json").is_file()
    assert not list(folder.glob(".*"))

    longer = run_of(
        tiny_dataset,
        "STUNetTrainer_small",
        continue_training=True,
        options=TrainingOptions(num_epochs=3, iterations_per_epoch=1, val_iterations_per_epoch=1, num_workers=0),
    )
    trainer = make_trainer(longer)
    trainer.load_checkpoint(str(folder / "checkpoint_final.pth"))
    trainer.resume_optimizer()
    assert trainer.current_epoch == 2
    for name, value in trainer.network.state_dict().items():
        assert torch.equal(value, checkpoint["network_weights"][name])
    momentum = trainer.optimizer.state_dict()["state"][0]["momentum_buffer"]
    assert torch.equal(momentum, checkpoint["optimizer_state"]["state"][0]["momentum_buffer"])


def test_interrupted_write_keeps_the_previous_checkpoint(tiny_dataset, monkeypatch):
    trainer = make_trainer(run_of(tiny_dataset, "STUNetTrainer_small"))
    trainer.initialize()
    file = Path(trainer.output_folder) / "checkpoint_latest.pth"
    trainer.save_checkpoint(str(file))
    before = file.read_bytes()

    def dies_half_way(content, path):
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", dies_half_way)
    with pytest.raises(KeyboardInterrupt):
        trainer.save_checkpoint(str(file))
    assert file.read_bytes() == before
    assert list(file.parent.glob("*checkpoint*")) == [file]


def test_continuing_without_a_checkpoint_is_an_error_unless_asked_for(tiny_dataset, monkeypatch):
    with pytest.raises(UserError, match="expects a checkpoint"):
        make_trainer(run_of(tiny_dataset, "STUNetTrainer_small", continue_training=True))
    monkeypatch.setenv(ALLOW_FRESH_START, "1")
    make_trainer(run_of(tiny_dataset, "STUNetTrainer_small", continue_training=True))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "404"}, "Expected dataset 404"),
        ({"plans": "noPlans"}, "Expected the plans noPlans"),
        ({"configuration": "4d"}, "Expected one of the configurations"),
        ({"trainer": "STUNetTrainer_smal"}, "similar: STUNetTrainer_small"),
        ({"continue_training": True, "only_validate": True}, "one of the three"),
        ({"continue_training": True, "pretrained_weights": "x"}, "one of the two"),
        ({"configuration": "2d"}, "nnUNetv2_preprocess -d 007"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_written(tiny_dataset, changes, message):
    import dataclasses

    run = dataclasses.replace(run_of(tiny_dataset, "STUNetTrainer_small"), **changes)
    with pytest.raises(UserError, match=message):
        run_training(run)
    assert not any(Path(os.environ["nnUNet_results"]).iterdir())


def test_fewer_cases_than_folds_are_counted_under_the_stock_command(tiny_dataset):
    folder = Path(os.environ["nnUNet_preprocessed"]) / tiny_dataset
    for index in (3, 4, 5):
        for file in (folder / "nnUNetPlans_3d_fullres").glob(f"case_{index}*"):
            file.unlink()
    trainer = make_trainer(run_of(tiny_dataset, "STUNetTrainer_small"))
    with pytest.raises(UserError, match="found 3: 3 cases cannot make 5 folds"):
        trainer.do_split()
    (folder / "splits_final.json").write_text('[{"train": ["case_0", "case_1"], "val": ["case_2"]}]')
    assert trainer.do_split() == (["case_0", "case_1"], ["case_2"])
    (folder / "splits_final.json").unlink()
    everything = dataclasses.replace(run_of(tiny_dataset, "STUNetTrainer_small"), fold="all")
    assert len(make_trainer(everything).do_split()[0]) == 3


@pytest.mark.parametrize("key", ["dataset_name", "plans_name"])
def test_the_stock_command_makes_no_folders_elsewhere(tiny_dataset, tmp_path, key):
    plans_file = Path(os.environ["nnUNet_preprocessed"]) / tiny_dataset / "nnUNetPlans.json"
    plans_file.write_text(plans_file.read_text().replace(f'"{key}": "', f'"{key}": "/../../elsewhere'))
    with pytest.raises(UserError, match=f"Expected '{key}' in the plans"):
        make_trainer(run_of(tiny_dataset, "STUNetTrainer_small"))
    assert not list(tmp_path.rglob("*elsewhere*"))


def test_epochs_without_a_dice_do_not_end_the_moving_average(tiny_dataset):
    trainer = make_trainer(run_of(tiny_dataset, "STUNetTrainer_small"))
    for epoch, dice in enumerate([np.nan, 0.5, np.nan, 0.7]):
        trainer.logger.log("mean_fg_dice", np.float64(dice), epoch)
    assert trainer.logger.get_value("ema_fg_dice", None) == pytest.approx([0, 0.05, 0.05, 0.115])


def test_with_a_seed_no_transform_chooses_its_algorithm_by_the_clock(tiny_dataset):
    trainer = make_trainer(run_of(tiny_dataset, "STUNetTrainer_small"))
    rotation, dummy_2d, _, mirror_axes = trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    transforms = trainer.get_training_transforms([24] * 3, rotation, None, mirror_axes, dummy_2d).transforms
    inner = [getattr(transform, "transform", transform) for transform in transforms]
    found = [transform.benchmark for transform in inner if hasattr(transform, "benchmark")]
    assert found == [False]
