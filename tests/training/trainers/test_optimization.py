from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import nnunetv2.run.run_training as stock_command
import pytest
import torch
from nnunetv2.training.logging.nnunet_logger import LocalLogger
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from nnunetv2_ext.architectures.stunet import STUNet
from nnunetv2_ext.cli import train
from nnunetv2_ext.training.options import SETTINGS_VARIABLE
from nnunetv2_ext.training.trainers.base import ExtTrainer
from nnunetv2_ext.training.trainers.finetune import FineTuneTrainer
from nnunetv2_ext.training.trainers.optimization import TRAINING_WEIGHTS, switch_activation_checkpointing
from nnunetv2_ext.utilities.errors import UserError


def weights(trainer):
    return {name: parameter.detach().clone() for name, parameter in trainer.bare_network.named_parameters()}


def gradients(trainer):
    """Those that there are: nnU-Net's loss gives the head of the lowest level none."""
    named = trainer.bare_network.named_parameters()
    return {name: parameter.grad.clone() for name, parameter in named if parameter.grad is not None}


def train_epoch(trainer, epoch, batches):
    """What nnU-Net's loop does with the batches of an epoch."""
    trainer.current_epoch = epoch
    trainer.on_train_epoch_start()
    for batch in batches:
        trainer.train_step(batch)


def test_a_step_is_nnunets(small_trainer, random_batch):
    trainer = small_trainer()
    start = {name: value.clone() for name, value in trainer.network.state_dict().items()}
    courses = []
    for step in (nnUNetTrainer.train_step, type(trainer).train_step):
        trainer.network.load_state_dict(start)
        trainer.optimizer, _ = trainer.configure_optimizers()
        losses = [float(step(trainer, random_batch(trainer, seed))["loss"]) for seed in range(2)]
        courses.append((losses, weights(trainer)))
    assert courses[0][0] == courses[1][0]
    assert all(torch.equal(value, courses[1][1][name]) for name, value in courses[0][1].items())


# Accumulated gradients ---------------------------------------------------------------------------------------------


def test_accumulated_gradients_are_those_of_one_large_batch(small_trainer, random_batch, monkeypatch):
    monkeypatch.setattr("nnunetv2_ext.training.trainers.optimization.OptimizationTrainer._step", lambda self: None)
    trainer = small_trainer(iterations_per_epoch=4, grad_accumulation=4)
    large = random_batch(trainer, 1, size=4)
    trainer.grad_accumulation = 1
    train_epoch(trainer, 0, [large])
    expected = gradients(trainer)
    trainer.grad_accumulation = 4
    parts = [
        {"data": large["data"][n : n + 1], "target": [level[n : n + 1] for level in large["target"]]} for n in range(4)
    ]
    train_epoch(trainer, 0, parts)
    for name, gradient in gradients(trainer).items():
        torch.testing.assert_close(gradient, expected.pop(name), rtol=1e-4, atol=1e-6)
    assert not expected


def test_what_is_left_of_an_epoch_makes_a_step_of_its_own(small_trainer, random_batch, monkeypatch):
    trainer = small_trainer(iterations_per_epoch=5, grad_accumulation=2)
    counts = []
    monkeypatch.setattr(trainer.optimizer, "step", lambda: counts.append(trainer._batches))
    batch = random_batch(trainer, 0, size=1)
    for epoch in range(2):
        train_epoch(trainer, epoch, [batch] * 5)
    assert counts == [2, 4, 5] * 2
    # The last step of an epoch has one batch, whose gradient counts in full.
    last = gradients(trainer)
    trainer.optimizer.zero_grad()
    trainer.training_loss(batch).backward()
    norm = nn.utils.clip_grad_norm_(trainer.network.parameters(), 12)
    assert norm > 0
    for name, gradient in gradients(trainer).items():
        torch.testing.assert_close(gradient, last[name], rtol=1e-5, atol=1e-7)


# Precision ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("precision", "expected"), [("bfloat16", torch.bfloat16), ("float32", torch.float32)])
def test_networks_run_in_the_precision_asked_for(small_trainer, random_batch, precision, expected):
    trainer = small_trainer(precision=precision)
    found = []
    trainer.network.register_forward_hook(lambda _network, _images, outputs: found.append(outputs[0].dtype))
    assert trainer.train_step(random_batch(trainer, 0))["loss"].dtype == "float32"
    assert found == [expected]
    assert trainer.grad_scaler is None


def test_precisions_that_a_device_lacks_are_refused(small_trainer):
    with pytest.raises(UserError, match="--precision float16 expects -device cuda, but got cpu"):
        small_trainer(precision="float16")


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["auto", "float32", "bfloat16", "float16"])
def test_precisions_on_cuda(small_trainer, random_batch, cuda, precision):
    trainer = small_trainer()
    trainer.precision, trainer.device = precision, cuda
    trainer.grad_scaler = torch.amp.GradScaler("cuda")
    trainer._choose_scaler()
    assert (trainer.grad_scaler is None) == (precision in ("float32", "bfloat16"))
    trainer.network.to(cuda)
    found = []
    trainer.network.register_forward_hook(lambda _network, _images, outputs: found.append(outputs[0].dtype))
    trainer.train_step(random_batch(trainer, 0))
    with torch.no_grad():
        trainer.validation_step(random_batch(trainer, 0))
    expected = getattr(torch, "float16" if precision == "auto" else precision)
    assert found == [expected] * 2
    assert torch.get_autocast_dtype("cuda") == torch.float16


# What trains -------------------------------------------------------------------------------------------------------


def test_what_is_frozen_neither_decays_nor_gathers_momentum_and_trains_later(small_trainer, random_batch):
    trainer = small_trainer(freeze="encoder", freeze_epochs=2, weight_decay=0.1, iterations_per_epoch=1)
    encoder = [name for name, _ in trainer.network.named_parameters() if name.startswith("encoder.")]
    course = [weights(trainer)]
    for epoch in range(3):
        train_epoch(trainer, epoch, [random_batch(trainer, epoch)])
        course.append(weights(trainer))
        states = {id(parameter) for parameter in trainer.optimizer.state}
        for name, parameter in trainer.network.named_parameters():
            if name.startswith("decoder.seg_layers.0."):
                continue  # without loss
            frozen = name in encoder and epoch < 2
            assert (parameter.grad is None) == frozen
            assert (id(parameter) not in states) == frozen
            assert torch.equal(course[-2][name], course[-1][name]) == frozen, name


def test_a_frozen_backbone_never_trains(small_trainer, random_batch):
    trainer = small_trainer(freeze="backbone", iterations_per_epoch=1)
    before = weights(trainer)
    for epoch in (0, 500):
        train_epoch(trainer, epoch, [random_batch(trainer, epoch)])
    changed = {name for name, value in weights(trainer).items() if not torch.equal(before[name], value)}
    assert changed
    assert all(name.startswith("decoder.seg_layers.") for name in changed)


def test_a_warm_up_is_followed_by_what_the_options_freeze(small_trainer, random_batch):
    trainer = small_trainer(FineTuneTrainer, warmup_heads=1, warmup_network=1, freeze="encoder", freeze_epochs=2)
    trained = []
    for epoch in range(3):
        before = weights(trainer)
        train_epoch(trainer, epoch, [random_batch(trainer, epoch)])
        changed = {name for name, value in weights(trainer).items() if not torch.equal(before[name], value)}
        trained.append({name.split(".")[1 if "seg_layers" in name else 0] for name in changed})
    assert trained == [{"seg_layers"}, {"seg_layers", "decoder"}, {"seg_layers", "decoder", "encoder"}]


def test_running_statistics_of_what_is_frozen_stay(small_trainer):
    pytest.importorskip("monai", reason="the extra 'monai' is not installed")
    from nnunetv2_ext.architectures.monai_networks import UNet

    trainer = small_trainer()
    trainer.network = UNet(1, 3, channels=(4, 8), strides=(2,))
    before = {name: value.clone() for name, value in trainer.network.named_buffers() if "running_mean" in name}
    trainer.network.train()
    trainer._freeze("encoder")
    trainer.network(torch.randn(2, 1, 8, 8, 8) + 3)
    after = dict(trainer.network.named_buffers())
    changed = {name.startswith("model.2.") for name, value in before.items() if not torch.equal(value, after[name])}
    kept = {name.startswith("model.2.") for name, value in before.items() if torch.equal(value, after[name])}
    assert (changed, kept) == ({True}, {False})


def test_what_a_network_freezes_itself_stays_frozen(small_trainer):
    trainer = small_trainer()
    fixed = trainer.network.encoder.stages[0][0].convs[0].conv.weight.requires_grad_(False)
    for part in ("encoder", "none"):
        trainer._freeze(part)
        assert not fixed.requires_grad
    assert sum(not parameter.requires_grad for parameter in trainer.network.parameters()) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"freeze_epochs": 3}, "--freeze_epochs says how long --freeze holds"),
        ({"activation_checkpointing": True}, r"\(STU-Net, SwinUNETR\), but PlainConvUNet cannot"),
    ],
)
def test_options_that_make_no_sense_are_refused(small_trainer, options, message):
    with pytest.raises(UserError, match=message):
        small_trainer(**options)


@pytest.fixture
def process_group(tmp_path):
    """One process that talks to itself."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_distributed_training_waits_for_the_gradients_that_there_are(small_trainer, random_batch, request):
    trainer = small_trainer(freeze="encoder", freeze_epochs=1, iterations_per_epoch=4, grad_accumulation=2)
    # nnU-Net's own weight in distributed trainings: a head without gradient would be waited for.
    trainer.loss.weight_factors = (*trainer.loss.weight_factors[:-1], 1e-6)
    # Only now, because trainers of several processes are on GPUs.
    request.getfixturevalue("process_group")
    trainer.network = DistributedDataParallel(trainer.network)
    wrappers, before = [trainer.network], weights(trainer)
    for epoch in range(2):
        train_epoch(trainer, epoch, [random_batch(trainer, seed) for seed in range(4)])
        wrappers.append(trainer.network)
        trains = {name for name, value in weights(trainer).items() if not torch.equal(before[name], value)}
        assert any(name.startswith("encoder.") for name in trains) == (epoch == 1)
    assert len(set(map(id, wrappers))) == 3


# Optimisers --------------------------------------------------------------------------------------------------------


def test_adamw_has_rates_of_its_own_unless_they_are_given(small_trainer):
    optimizer = small_trainer(optimizer="adamw").optimizer
    assert isinstance(optimizer, torch.optim.AdamW)
    (group,) = optimizer.param_groups
    assert (group["lr"], group["weight_decay"]) == (pytest.approx(1e-3), 1e-2)
    (group,) = small_trainer(optimizer="adamw", initial_lr=0.5, weight_decay=0.25).optimizer.param_groups
    assert (group["lr"], group["weight_decay"]) == (0.5, 0.25)
    assert isinstance(small_trainer(optimizer="sgd").optimizer, torch.optim.SGD)


def test_layer_decay_reaches_every_phase_of_a_warm_up(small_trainer, random_batch):
    trainer = small_trainer(FineTuneTrainer, warmup_heads=0, warmup_network=2, layer_decay=0.5, initial_lr=0.1)
    train_epoch(trainer, 0, [random_batch(trainer, 0)])
    rates = [group["lr"] for group in trainer.optimizer.param_groups]
    assert rates == pytest.approx([0.05 * 0.5**depth for depth in range(len(rates))])
    assert len(rates) > 3


def test_recomputed_activations_give_the_same_gradients():
    torch.manual_seed(0)
    network = STUNet(1, 2, features_per_stage=[4, 6], n_blocks_per_stage=1, strides=[[1] * 3, [2] * 3])
    image, calls = torch.randn(1, 1, 8, 8, 8), []
    encoder: Any = network.encoder
    encoder.stages[0][0].conv1.register_forward_hook(lambda *_: calls.append(1))
    gradients = []
    for wanted in (False, True):
        switch_activation_checkpointing(network, wanted)
        network.zero_grad(set_to_none=True)
        network(image).square().mean().backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
    assert len(calls) == 3
    for one, two in zip(*gradients, strict=True):
        assert one is not None
        assert two is not None
        assert torch.equal(one, two)


# Through the commands ----------------------------------------------------------------------------------------------

TRAINER = "FineTuneTrainer_unet"
SHORT = ("--num_epochs", "2", "--iterations_per_epoch", "2", "--val_iterations_per_epoch", "1", "--batch_size", "2",
         "--num_workers", "0", "--warmup_heads", "0", "--warmup_network", "0", "--save_every", "1",
         "--seed", "4")  # fmt: skip
OPTIONS = {
    "ema": ("--ema", "0.9"),
    "everything": ("--ema", "0.5", "--freeze", "encoder", "--freeze_epochs", "1", "--layer_decay", "0.8", "--optimizer",
                   "adamw", "--grad_accumulation", "2", "--precision", "bfloat16", "--no_mirroring"),
}  # fmt: skip


@pytest.fixture
def final_validations(monkeypatch):
    """The trainers that came to their final validation, which is tested elsewhere, as drawings are."""
    validated = []
    monkeypatch.setattr(ExtTrainer, "perform_actual_validation", lambda self, _=False: validated.append(self))
    monkeypatch.setattr(nnUNetTrainer, "plot_network_architecture", lambda self: None)
    monkeypatch.setattr(LocalLogger, "plot_progress_png", lambda self, folder: None)
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    return validated


def _train(*flags):
    return train.main(["7", "3d_fullres", "0", "-tr", TRAINER, "-device", "cpu", "--quiet", *flags])


def _fold(dataset):
    return Path(os.environ["nnUNet_results"]) / dataset / f"{TRAINER}__nnUNetPlans__3d_fullres" / "fold_0"


@pytest.mark.parametrize("key", OPTIONS)
def test_a_training_that_goes_on_ends_as_an_undisturbed_one(tiny_dataset, key, final_validations, monkeypatch):
    assert _train(*SHORT, *OPTIONS[key]) == 0
    finished = _fold(tiny_dataset) / "checkpoint_final.pth"
    undisturbed = torch.load(finished, weights_only=True)
    # What is validated is what was saved.
    averages, training = undisturbed["network_weights"], undisturbed["optimizer_state"][TRAINING_WEIGHTS]
    validated = final_validations[0].bare_network.state_dict()
    assert all(torch.equal(value, averages[name]) for name, value in validated.items())
    assert not all(torch.equal(value, averages[name]) for name, value in training.items())

    table = (_fold(tiny_dataset) / "training_log.csv").read_text(encoding="utf-8").splitlines()
    assert len(table) == 3
    finished.unlink()
    (finished.parent / "checkpoint_best.pth").unlink()
    usual = nnUNetTrainer.on_train_epoch_end

    def die(self, outputs):
        if self.current_epoch == 1:
            raise KeyboardInterrupt
        usual(self, outputs)

    with monkeypatch.context() as patch:
        patch.setattr(nnUNetTrainer, "on_train_epoch_end", die)
        assert _train(*SHORT, *OPTIONS[key]) == 130
    assert _train("--c") == 0
    resumed = torch.load(finished, weights_only=True)
    assert resumed["init_args"]["training_options"] == undisturbed["init_args"]["training_options"]
    assert all(torch.equal(value, resumed["network_weights"][name]) for name, value in averages.items())
    assert all(
        torch.equal(value, resumed["optimizer_state"][TRAINING_WEIGHTS][name]) for name, value in training.items()
    )
    assert final_validations[-1].inference_allowed_mirroring_axes == undisturbed["inference_allowed_mirroring_axes"]
    assert (undisturbed["inference_allowed_mirroring_axes"] is None) == ("--no_mirroring" in OPTIONS[key])


def test_the_stock_command_heeds_the_options_and_goes_on_with_them(tiny_dataset, final_validations, monkeypatch):
    given: dict[str, Any] = {
        "num_epochs": 1,
        "num_iterations_per_epoch": 2,
        "num_val_iterations_per_epoch": 1,
        "batch_size": 2,
    }
    given |= {"warmup_heads": 0, "warmup_network": 0, "ema": 0.5, "freeze": "backbone", "optimizer_name": "adamw"}
    words = ["nnUNetv2_train", "7", "3d_fullres", "0", "-tr", TRAINER, "-device", "cpu"]
    for variable, further in ((json.dumps(given), []), ("", ["--val"])):
        monkeypatch.setenv(SETTINGS_VARIABLE, variable)
        monkeypatch.setattr(sys, "argv", [*words, *further])
        stock_command.run_training_entry()
        trainer = final_validations[-1]
        assert (trainer.ema, trainer.freeze, trainer.optimizer_name) == (0.5, "backbone", "adamw")


def test_what_lasts_for_a_training_cannot_change(tiny_dataset, final_validations, capsys):
    assert _train(*SHORT[:-2], "--num_epochs", "1", "--layer_decay", "0.5") == 0
    assert _train("--c", "--layer_decay", "0.75") == 2
    assert "--layer_decay lasts for a whole training, which began with 0.5, not 0.75" in capsys.readouterr().err
    assert _train("--c", "--optimizer", "adamw") == 2
    assert "which began with sgd, not adamw" in capsys.readouterr().err
    assert _train("--c", "--optimizer", "sgd", "--layer_decay", "0.5") == 0


@pytest.mark.parametrize(
    "flags",
    [
        ("--freeze", "decoder"),
        ("--freeze_epochs", "0"),
        ("--layer_decay", "1.5"),
        ("--optimizer", "lion"),
        ("--grad_accumulation", "0"),
        ("--precision", "half"),
        ("--ema", "1"),
        ("--ema", "nan"),
    ],
)
def test_wrong_values_are_refused(flags, capsys):
    with pytest.raises(SystemExit) as ended:
        _train(*flags)
    assert ended.value.code == 2
    assert f"argument {flags[0]}" in capsys.readouterr().err


def test_nnunets_own_trainers_lack_the_options(tiny_dataset, capsys):
    assert train.main(["7", "3d_fullres", "0", "-device", "cpu", "--quiet", "--ema", "0.9"]) == 2
    assert "nnUNetTrainer has no setting for --ema; use a trainer that has it" in capsys.readouterr().err
