"""Training with a head per source, through the commands where it matters."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from nnunetv2_ext.architectures.multi_head import MultiHeadPlainConvUNet
from nnunetv2_ext.checkpoints import read_checkpoint
from nnunetv2_ext.cli import train
from nnunetv2_ext.cli.predict import main as predict
from nnunetv2_ext.training.options import TrainingOptions
from nnunetv2_ext.training.run_training import TrainingRun, make_trainer
from nnunetv2_ext.training.trainers.collection import CollectionTrainer
from nnunetv2_ext.utilities.errors import UserError

SHORT = TrainingOptions(
    num_epochs=2, iterations_per_epoch=1, val_iterations_per_epoch=1, batch_size=2, save_every=1, seed=1, num_workers=0
)
PLAIN, MULTI = "MultiTalentV2Trainer", "MultiTalentV2Trainer_multistems"


def trainer_of(dataset, name=PLAIN):
    trainer = make_trainer(TrainingRun(dataset, "3d_fullres", 0, name, device="cpu", options=SHORT))
    trainer.initialize()
    return trainer


def batch_of(trainer, *sources):
    """A batch with images of these sources."""
    loader = trainer.get_dataloaders()[0]
    while True:
        batch = next(loader)
        if [case[0] for case in batch["keys"]] == list(sources):
            return batch


def fold_folder(dataset, name=PLAIN):
    return Path(os.environ["nnUNet_results"]) / dataset / f"{name}__nnUNetPlans__3d_fullres" / "fold_0"


@pytest.mark.parametrize("name", [PLAIN, MULTI])
def test_sources_get_heads_of_their_exclusive_classes(tiny_collection, name):
    trainer = trainer_of(tiny_collection, name)
    network = trainer.network
    assert isinstance(network, MultiHeadPlainConvUNet)
    # Liver without tumour and tumour; spleen and kidney; background each.
    assert network.heads == {"000": 3, "001": 3}
    assert network.stems == (None if name == PLAIN else {"000": 1, "001": 1})
    written = trainer.plans_manager.plans["configurations"]["3d_fullres"]["architecture"]
    assert written["arch_kwargs"]["heads"] == network.heads
    assert (trainer.initial_lr, trainer.weight_decay) == (1e-3, 3e-5)
    (group,) = trainer.optimizer.param_groups
    assert (group["nesterov"], group["momentum"]) == (True, 0.99)


def test_a_plain_dataset_is_refused(tiny_dataset):
    with pytest.raises(UserError, match="expects a collection"):
        trainer_of(tiny_dataset)


def test_other_networks_are_refused(tiny_collection):
    file = Path(os.environ["nnUNet_preprocessed"]) / tiny_collection / "nnUNetPlans.json"
    plans = json.loads(file.read_text())
    network = plans["configurations"]["3d_fullres"]["architecture"]
    network["network_class_name"] = "nnunetv2_ext.architectures.stunet.STUNet"
    file.write_text(json.dumps(plans))
    with pytest.raises(UserError, match=r"PlainConvUNet or ResidualEncoderUNet, .* but these are for .*STUNet"):
        trainer_of(tiny_collection)


@pytest.mark.parametrize("name", [PLAIN, MULTI])
def test_a_step_costs_what_the_heads_of_the_images_say(tiny_collection, name):
    from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
    from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss

    trainer = trainer_of(tiny_collection, name)
    batch = batch_of(trainer, "B", "A")
    batch["annotated"] = torch.tensor([[False, False, True, True], [True, True, False, False]])
    with torch.no_grad():
        value = trainer._outputs_and_loss(batch)[-1].item()
        dice = {"batch_dice": False, "smooth": 0, "do_bg": False, "ddp": False}
        stock = DC_and_CE_loss(dice, {}, dice_class=MemoryEfficientSoftDiceLoss)
        expected = 0.0
        levels = len(batch["target"])
        weights = np.array([0.5**level for level in range(levels - 1)] + [0.0])
        for image, (head, offset) in enumerate((("001", 2), ("000", 0))):
            outputs = trainer.network.single(head)(batch["data"][image : image + 1])
            for weight, output, target in zip(weights / weights.sum(), outputs, batch["target"], strict=True):
                own = target[image : image + 1].long()
                expected += weight * stock(output, torch.where(own > 0, own - offset, own)).item()
    assert value == pytest.approx(expected, rel=1e-4)


def test_validation_counts_what_the_heads_decide(tiny_collection):
    trainer = trainer_of(tiny_collection)
    batch = batch_of(trainer, "A", "B")
    trainer.network.eval()
    with torch.no_grad():
        result = trainer.validation_step(batch)
        logits = [trainer.network.single(head)(batch["data"][i : i + 1])[0] for i, head in enumerate(("000", "001"))]
    predicted = [logits[0].argmax(1)[0], logits[1].argmax(1)[0] + 2]
    predicted[1][predicted[1] == 2] = 0
    for index, (image, which) in enumerate([(0, (1, 2)), (0, (2,)), (1, (3,)), (1, (4,))]):
        values = torch.tensor(which)
        found = torch.isin(predicted[image], values)
        true = torch.isin(batch["target"][0][image, 0].long(), values)
        counted = bool(batch["annotated"][image, index])
        assert result["tp_hard"][index] == counted * int((found & true).sum())
        assert result["fp_hard"][index] == counted * int((found & ~true).sum())
        assert result["fn_hard"][index] == counted * int((~found & true).sum())


@pytest.mark.slow
@pytest.mark.compile
def test_the_sources_of_a_batch_do_not_recompile(tiny_collection):
    """One compiled graph of the backbone, whatever heads a batch needs."""
    trainer = trainer_of(tiny_collection)
    network, image = trainer.network.eval(), torch.randn(2, 1, 16, 16, 16)
    counter = CompileCounterWithBackend("eager")
    torch.compiler.reset()
    compiled = torch.compile(network, backend=counter)
    frames = []
    for sources in ([0, 1], [1, 1], [1, 0], [0, 0]):
        places = torch.tensor(sources)
        for output, expected in zip(compiled(image, places), network(image, places), strict=True):
            torch.testing.assert_close(output, expected)
        frames.append(counter.frame_count)
    assert len(set(frames)) == 1


FLAGS = ["-device", "cpu", "--quiet", "--num_workers", "0", "--seed", "1", "--batch_size", "2", "--save_every", "1",
         "--iterations_per_epoch", "1", "--val_iterations_per_epoch", "1"]  # fmt: skip


@pytest.mark.parametrize("name", [PLAIN, pytest.param(MULTI, marks=pytest.mark.slow)])
@pytest.mark.usefixtures("threads_instead_of_processes")
def test_a_training_goes_on_is_validated_and_predicts_every_source(tiny_collection, tmp_path, name, monkeypatch):
    monkeypatch.setattr("nnunetv2.training.nnUNetTrainer.nnUNetTrainer.nnUNetTrainer.plot_network_architecture",
                        lambda self: None)  # fmt: skip
    command = ["8", "3d_fullres", "0", "-tr", name, *FLAGS]
    with monkeypatch.context() as patch:
        patch.setattr(CollectionTrainer, "perform_actual_validation", lambda self, _=False: None)
        assert train.main([*command, "--num_epochs", "1"]) == 0
    fold = fold_folder(tiny_collection, name)
    first = torch.load(fold / "checkpoint_final.pth", weights_only=False)
    (fold / "checkpoint_final.pth").rename(fold / "checkpoint_latest.pth")
    assert train.main([*command, "--num_epochs", "2", "--c"]) == 0
    final = torch.load(fold / "checkpoint_final.pth", weights_only=False)
    assert (first["current_epoch"], final["current_epoch"]) == (1, 2)

    summary = json.loads((fold / "validation" / "summary.json").read_text())
    metrics = {Path(case["prediction_file"]).name: set(case["metrics"]) for case in summary["metric_per_case"]}
    assert metrics == {
        "A_0.nii.gz": {"(1, 2)", "(2, 2)"},
        "B_0.nii.gz": {"(3, 3)", "(4, 4)"},
        "B_1.nii.gz": {"(3, 3)"},
    }

    image = Path(os.environ["nnUNet_raw"]) / tiny_collection / "imagesTr" / "B_0_0000.nii.gz"
    flags = ["-i", str(image), "-o", str(tmp_path / "o"), "-m", str(fold.parent), "-device", "cpu", "--quiet"]
    assert predict([*flags, "--disable_tta"]) == 0
    assert (tmp_path / "o" / "B" / "B_0.nii.gz").is_file()
    assert json.loads((tmp_path / "o" / "A" / "labels.json").read_text())["labels"]["A/tumour"] == 2

    checkpoint = read_checkpoint(fold.parent)
    assert checkpoint.format == "multitalent_v2"
    assert checkpoint.class_names == ("A/liver", "A/tumour", "B/spleen", "B/kidney")
    assert read_checkpoint(fold.parent, dataset="B").class_names == ("background", "spleen", "kidney")
    assert len(checkpoint.build_network().state_dict()) == len(final["network_weights"])
