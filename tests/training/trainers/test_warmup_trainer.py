from __future__ import annotations

import dataclasses

import pytest
import torch

from nnunetv2_ext.training.options import TrainingOptions
from nnunetv2_ext.training.run_training import TrainingRun, make_trainer
from nnunetv2_ext.training.trainers.warmup import head_parameters

OPTIONS = TrainingOptions(
    num_epochs=3, initial_lr=1e-2, iterations_per_epoch=1, batch_size=2, warmup_heads=2, warmup_network=2, seed=3
)


def make(dataset):
    trainer = make_trainer(TrainingRun(dataset, "3d_fullres", 0, "FineTuneTrainer_unet", device="cpu", options=OPTIONS))
    trainer.initialize()
    return trainer


@pytest.fixture
def train(random_batch):
    """Trains epochs of one step on fixed random data, as nnU-Net's loop does."""

    def train(trainer, epochs, snapshots=None):
        for epoch in epochs:
            trainer.current_epoch = epoch
            trainer.on_train_epoch_start()
            trainer.train_step(random_batch(trainer, epoch))
            if snapshots is not None:
                snapshots.append({name: value.clone() for name, value in trainer.network.state_dict().items()})

    return train


def changed(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_heads_first_then_everything(tiny_dataset, train):
    trainer = make(tiny_dataset)
    assert trainer.num_epochs == 7
    snapshots = [{name: value.clone() for name, value in trainer.network.state_dict().items()}]
    rates, optimizers = [], []
    for epoch in range(5):
        train(trainer, [epoch], snapshots)
        rates.append(trainer.optimizer.param_groups[0]["lr"])
        optimizers.append(trainer.optimizer)
    heads = {name for name in snapshots[0] if "seg_layers" in name}
    for epoch in (0, 1):
        assert changed(snapshots[epoch], snapshots[epoch + 1]) <= heads
        assert changed(snapshots[epoch], snapshots[epoch + 1])
    assert "encoder.stages.0.0.convs.0.conv.weight" in changed(snapshots[2], snapshots[3])
    assert rates == pytest.approx([2.5e-4, 5e-4, 5e-3, 1e-2, 1e-2])
    assert [type(optimizer).__name__ for optimizer in optimizers] == ["AdamW"] * 2 + ["SGD"] * 3
    assert optimizers[2] is optimizers[4]


def test_frozen_backbone_gets_no_gradients(tiny_dataset, train):
    trainer = make(tiny_dataset)
    train(trainer, [0])
    heads = {id(parameter) for parameter in head_parameters(trainer.network)}
    for parameter in trainer.network.parameters():
        assert parameter.grad is None or id(parameter) in heads


@pytest.mark.parametrize("stop_after", [1, 2, 4])
def test_a_resumed_run_equals_an_uninterrupted_one(tiny_dataset, train, tmp_path, stop_after):
    uninterrupted = make(tiny_dataset)
    start = {name: value.clone() for name, value in uninterrupted.network.state_dict().items()}
    train(uninterrupted, range(6))

    first = make(tiny_dataset)
    first.network.load_state_dict(start)
    train(first, range(stop_after))
    first.current_epoch = stop_after - 1
    first.save_checkpoint(str(tmp_path / "checkpoint.pth"))

    second = make(tiny_dataset)
    second.load_checkpoint(str(tmp_path / "checkpoint.pth"))
    second.resume_optimizer()
    assert second.current_epoch == stop_after
    train(second, range(stop_after, 6))
    for name, value in second.network.state_dict().items():
        torch.testing.assert_close(value, uninterrupted.network.state_dict()[name], rtol=0, atol=0)


def test_options_are_part_of_the_schedule(tiny_dataset):
    trainer = make(tiny_dataset)
    assert dataclasses.asdict(trainer.schedule) | {"exponent": 0} == {
        "heads_epochs": 2,
        "network_epochs": 2,
        "standard_epochs": 3,
        "heads_lr": 5e-4,
        "network_lr": 1e-2,
        "standard_lr": 1e-2,
        "exponent": 0,
    }
