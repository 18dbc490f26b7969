"""Trainings that stop in the middle of an epoch and go on there."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
from pathlib import Path

import nnunetv2.run.run_training as stock_command
import numpy as np
import pytest
import torch
from nnunetv2.training.logging.nnunet_logger import LocalLogger
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunetv2_ext.cli import train
from nnunetv2_ext.training.trainers import stopping
from nnunetv2_ext.training.trainers.base import ExtTrainer
from nnunetv2_ext.training.trainers.stopping import StoppingTrainer

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="processes cannot be sent these signals there")
TRAINER = "FineTuneTrainer_unet"
SHORT = ("--num_epochs", "2", "--iterations_per_epoch", "3", "--val_iterations_per_epoch", "2", "--batch_size", "2",
         "--num_workers", "0", "--warmup_heads", "1", "--warmup_network", "0", "--seed", "4")  # fmt: skip


@pytest.fixture(autouse=True)
def training_alone(monkeypatch):
    """No final validation and no drawings, which take seconds and are tested elsewhere."""
    validated = []
    monkeypatch.setattr(ExtTrainer, "perform_actual_validation", lambda self, _=False: validated.append(self))
    monkeypatch.setattr(nnUNetTrainer, "plot_network_architecture", lambda self: None)
    monkeypatch.setattr(LocalLogger, "plot_progress_png", lambda self, folder: None)
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    monkeypatch.setenv("nnUNetv2_ext_allow_fresh_start", "0")
    return validated


def _train(*flags, trainer=TRAINER, dataset="7"):
    return train.main([dataset, "3d_fullres", "0", "-tr", trainer, "-device", "cpu", "--quiet", *flags])


def _fold(dataset, trainer=TRAINER):
    return Path(os.environ["nnUNet_results"]) / dataset / f"{trainer}__nnUNetPlans__3d_fullres" / "fold_0"


def _read(dataset, name, trainer=TRAINER):
    return torch.load(_fold(dataset, trainer) / f"checkpoint_{name}.pth", weights_only=True)


def _signal_in(monkeypatch, method, call, number=signal.SIGTERM):
    """Sends a signal to this process in the given call of a method, counted from 0."""
    usual, calls = getattr(ExtTrainer, method), []

    def step(self, *arguments):
        if len(calls) == call:
            os.kill(os.getpid(), number)
        calls.append(self.current_epoch)
        return usual(self, *arguments)

    monkeypatch.setattr(ExtTrainer, method, step)
    return calls


#: What the signal comes in, counted over the two batches of validation or three steps of each epoch; how many steps of
#: the second epoch are done when the training stops; the signal; and options.
MOMENTS = {
    "step": ("train_step", 4, 2, "SIGTERM", ()),
    "validation": ("validation_step", 2, 3, "SIGUSR1", ()),
    # Where two batches make a step, it is finished; where weights are averaged, others are in the checkpoint, too.
    "half a step": ("train_step", 3, 2, "SIGTERM", ("--grad_accumulation", "2", "--ema", "0.5")),
    "validation of an average": ("validation_step", 2, 3, "SIGTERM", ("--ema", "0.5")),
}


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_what_goes_on_within_an_epoch_ends_with_the_weights_of_an_undisturbed_training(
    tiny_dataset, monkeypatch, moment
):
    method, call, steps_done, number, options = MOMENTS[moment]
    flags = (*SHORT, *options)
    usual = ExtTrainer.training_loss

    def loss(self, batch):
        # Dropout and the like draw from torch's generator between the batches.
        noise = torch.rand(int(torch.randint(1, 9, ()))).sum()
        return usual(self, {**batch, "data": batch["data"] + 0.01 * noise})

    monkeypatch.setattr(ExtTrainer, "training_loss", loss)
    assert _train(*flags) == 0
    undisturbed = _read(tiny_dataset, "final")
    for file in _fold(tiny_dataset).glob("checkpoint_*"):
        file.unlink()
    with monkeypatch.context() as patch:
        calls = _signal_in(patch, method, call, getattr(signal, number))
        assert _train(*flags) == 75
        assert calls[-1] == 1
    stopped = _read(tiny_dataset, "latest")
    assert stopped["current_epoch"] == 1
    assert len(stopped["init_args"]["progress"]["losses"]) == steps_done
    assert not (_fold(tiny_dataset) / "checkpoint_final.pth").exists()

    with monkeypatch.context() as patch:
        calls = _signal_in(patch, "train_step", -1)
        assert _train("--c") == 0
        assert calls == [1] * (3 - steps_done) + [2] * 3
    resumed = _read(tiny_dataset, "final")
    for name, value in undisturbed["network_weights"].items():
        assert torch.equal(resumed["network_weights"][name], value), name
    for key, values in undisturbed["logging"].items():
        if not key.endswith("timestamps"):
            np.testing.assert_array_equal(resumed["logging"][key], values, key)


@pytest.mark.slow
def test_the_stock_command_stops_in_order(tiny_dataset, monkeypatch, capsys):
    monkeypatch.setenv("nnUNetv2_ext_settings", json.dumps({"num_epochs": 2, "num_iterations_per_epoch": 2}))
    words = ["nnUNetv2_train", "7", "3d_fullres", "0", "-tr", TRAINER, "-device", "cpu"]
    monkeypatch.setattr(sys, "argv", words)
    _signal_in(monkeypatch, "train_step", 0)
    with pytest.raises(SystemExit) as end:
        stock_command.run_training_entry()
    assert end.value.code == 75
    assert "SIGTERM asked to stop: the training stops in epoch 0 after step 1 of 2" in capsys.readouterr().out
    assert _read(tiny_dataset, "latest")["current_epoch"] == 0


@pytest.mark.slow
def test_loaders_serve_the_running_step_and_end(tiny_dataset, monkeypatch):
    """Batch systems send signals to all processes of a job."""
    before, loaders = set(multiprocessing.active_children()), []
    usual = ExtTrainer.train_step

    def step(self, batch):
        if not loaders:
            loaders.extend(set(multiprocessing.active_children()) - before)
            for process in [child.pid for child in loaders] + [os.getpid()]:
                os.kill(process, signal.SIGTERM)
        return usual(self, batch)

    monkeypatch.setattr(ExtTrainer, "train_step", step)
    monkeypatch.setattr("multiprocessing.cpu_count", lambda: 1)
    assert _train(*SHORT[:8], "--num_workers", "1") == 75
    assert len(loaders) == 2
    assert not any(loader.is_alive() for loader in loaders)
    # In order: neither by SIGTERM nor by SIGKILL.
    assert [loader.exitcode for loader in loaders] == [0, 0]


class _Clock:
    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now


def test_time_that_is_up_ends_a_training_whose_rate_has_fallen_to_nothing(tiny_dataset, monkeypatch, training_alone):
    clock = _Clock()
    monkeypatch.setattr(stopping, "time", clock)
    rates, usual = [], ExtTrainer.train_step

    def step(self, batch):
        clock.now += 900
        rates.append(self.optimizer.param_groups[0]["lr"])
        return usual(self, batch)

    monkeypatch.setattr(ExtTrainer, "train_step", step)
    flags = ("--num_epochs", "100", *SHORT[2:8], "--warmup_heads", "0", "--warmup_network", "0", "--initial_lr", "0.1")
    assert _train(*flags, "--max_hours", "1") == 0
    assert rates == pytest.approx([0.1 * (1 - quarter / 4) ** 0.9 for quarter in range(4)])
    assert not training_alone
    latest = _read(tiny_dataset, "latest")
    assert latest["current_epoch"] == 1
    assert len(latest["init_args"]["progress"]["losses"]) == 1
    # The same command has nothing to do; with more time the training goes on in the middle of its epoch.
    assert _train("--c") == 0
    assert len(rates) == 4
    assert _train("--c", "--max_hours", "1.25") == 0
    assert rates[4:] == pytest.approx([0.1 * 0.2**0.9])


def test_cases_are_drawn_by_their_weights(tiny_dataset, tmp_path, monkeypatch):
    drawn, usual = set(), ExtTrainer.train_step

    def step(self, batch):
        drawn.update(batch["keys"])
        return usual(self, batch)

    monkeypatch.setattr(ExtTrainer, "train_step", step)
    file = tmp_path / "weights.json"
    file.write_text(json.dumps({f"case_{number}": 0 for number in range(6)}), encoding="utf-8")
    assert _train(*SHORT, "--case_weights", str(file)) == 2
    splits = json.loads((Path(os.environ["nnUNet_preprocessed"]) / tiny_dataset / "splits_final.json").read_text())
    only = splits[0]["train"][0]
    file.write_text(json.dumps({case: float(case == only) for case in splits[0]["train"]}), encoding="utf-8")
    assert _train(*SHORT, "--case_weights", str(file)) == 0
    assert drawn == {only}


@pytest.mark.slow
def test_ranks_agree_on_the_step_at_which_they_stop(monkeypatch):
    """What one of them was asked, and the longest time, count for all."""
    of_another = torch.tensor([1.0, 20.0], dtype=torch.float64)

    def all_reduce(tensor, operation):
        assert operation == torch.distributed.ReduceOp.MAX
        torch.maximum(tensor, of_another, out=tensor)

    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    trainer = StoppingTrainer.__new__(StoppingTrainer)
    trainer.is_ddp, trainer.device, trainer._seconds_before = True, torch.device("cpu"), 10.0
    assert trainer._code_to_stop_with() == 75
    assert trainer._seconds_trained == 20
    of_another[0] = 0
    assert trainer._code_to_stop_with() is None
    trainer.max_hours = 15 / 3600
    assert trainer._code_to_stop_with() == 0
    trainer._note(signal.SIGUSR1)
    assert trainer._code_to_stop_with() == 75
