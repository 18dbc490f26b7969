from __future__ import annotations

import csv
import importlib.util
from pathlib import Path

import numpy as np
import pytest
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunetv2_ext.training.options import TrainingOptions
from nnunetv2_ext.training.run_training import TrainingRun, make_trainer
from nnunetv2_ext.training.trainers.logs import TensorBoardLogger
from nnunetv2_ext.utilities.errors import UserError


def test_the_table_names_the_classes(small_trainer, monkeypatch):
    trainer = small_trainer()
    monkeypatch.setattr(trainer.logger.local_logger, "plot_progress_png", lambda folder: None)
    trainer.disable_checkpointing = True
    for key, value in {"epoch_start_timestamps": 1.0, "train_losses": 2.0, "val_losses": 3.0, "lrs": 0.1}.items():
        trainer.logger.log(key, value, 0)
    trainer.logger.log("dice_per_class_or_region", [np.float32(0.25), np.nan], 0)
    trainer.logger.log("mean_fg_dice", 0.25, 0)
    trainer.on_epoch_end()
    with (Path(trainer.output_folder) / "training_log.csv").open(newline="", encoding="utf-8") as stream:
        (row,) = csv.DictReader(stream)
    assert (row["pseudo_dice liver"], row["pseudo_dice spleen"]) == ("0.25", "nan")
    assert float(row["seconds"]) > 0


@pytest.mark.parametrize(
    ("dataset", "trainer", "names"),
    [
        ("tiny_collection", "MultiTalentTrainer_unet", ["A/liver", "A/tumour", "B/spleen", "B/kidney"]),
        ("tiny_tree_collection", "LabelTreeTrainer_unet", ["background", "body", "bones", "rib", "hip", "body_other"]),
    ],
)
def test_classes_of_collections(dataset, trainer, names, request):
    run = TrainingRun(request.getfixturevalue(dataset), "3d_fullres", 0, trainer, device="cpu")
    assert make_trainer(run).logged_classes == names


def test_tensorboard_is_refused_where_it_is_not_installed(small_trainer, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "nnunetv2_ext.utilities.extras.find_spec", lambda name: None if name == "tensorboard" else find(name)
    )
    with pytest.raises(UserError, match=r"--tensorboard needs tensorboard.*pip install 'nnunetv2-ext\[tensorboard\]'"):
        small_trainer(tensorboard=True)


def test_events_of_epochs_that_are_done_again_are_dropped(tmp_path):
    pytest.importorskip("tensorboard", reason="the extra 'tensorboard' is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for first, epochs in ((0, 3), (1, 2)):
        logger = TensorBoardLogger(tmp_path, first)
        for epoch in range(first, epochs):
            logger.log("train_losses", first + epoch / 10, epoch)
            logger.log("epoch_end_timestamps", 1e9, epoch)
        logger.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    assert events.Tags()["scalars"] == ["train_losses"]
    found = [(event.step, event.value) for event in events.Scalars("train_losses")]
    assert found == [(0, 0), (1, pytest.approx(1.1))]


def test_a_training_writes_events_from_its_start_to_its_end(small_trainer, monkeypatch):
    pytest.importorskip("tensorboard", reason="the extra 'tensorboard' is not installed")
    monkeypatch.setattr(nnUNetTrainer, "on_train_start", lambda self: None)

    def fail(self):
        self.logger.log("train_losses", 0.5, 0)
        raise UserError("the end of the training")

    monkeypatch.setattr(nnUNetTrainer, "on_epoch_start", fail)
    trainer = small_trainer(tensorboard=True)
    with pytest.raises(UserError, match="the end of the training"):
        trainer.run_training()
    trainer.logger.log("train_losses", 0.25, 1)
    (file,) = (Path(trainer.output_folder) / "tensorboard").iterdir()
    assert file.name.startswith("events.out.tfevents")
    assert trainer.logger.loggers == []


def test_options_reach_the_trainer(tiny_dataset):
    run = TrainingRun(
        tiny_dataset, "3d_fullres", 0, "STUNetTrainer_small", device="cpu", options=TrainingOptions(tensorboard=True)
    )
    assert make_trainer(run).tensorboard is True
