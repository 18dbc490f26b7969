from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from nnunetv2_ext.architectures.planned import SwinUNETRForPlans
from nnunetv2_ext.architectures.resenc import StridedSkipResidualEncoderUNet
from nnunetv2_ext.architectures.stunet import STUNet
from nnunetv2_ext.architectures.unet import PlainConvUNet
from nnunetv2_ext.experiment_planning.templates import load_template
from nnunetv2_ext.training.trainers import finetune, multitalent
from nnunetv2_ext.training.trainers.partial_labels import PartialLabelTrainer
from nnunetv2_ext.utilities.errors import UserError

TRAINERS = {name: getattr(multitalent, name) for name in multitalent.__all__}


def configuration(template, **changes):
    """What a trainer gets from nnU-Net for a template's 3d_fullres configuration."""
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    content = {**load_template(template), "plans_name": template, "dataset_name": "Dataset001_X"}
    content["configurations"]["3d_fullres"].update(changes)
    return PlansManager(content).get_configuration("3d_fullres").configuration


def build(trainer, template, classes=3, **changes):
    with torch.device("meta"):
        return trainer.architecture.build(
            configuration(template, **changes), 1, classes, trainer.enable_deep_supervision
        )


@pytest.mark.parametrize("trainer", TRAINERS.values(), ids=multitalent.__all__)
def test_every_trainer_is_for_collections_and_has_the_epochs_of_its_name(trainer):
    assert issubclass(trainer, PartialLabelTrainer)
    assert trainer.num_epochs == (2000 if trainer.__name__.endswith("_2000ep") else 1000)


@pytest.mark.parametrize(
    ("trainer", "template", "network"),
    [
        (TRAINERS["MultiTalentTrainer_unet"], "multitalent_unet", PlainConvUNet),
        (TRAINERS["MultiTalentTrainer_resenc"], "multitalent_resenc", StridedSkipResidualEncoderUNet),
        (TRAINERS["MultiTalentTrainer_stunet_small"], "multitalent_stunet", STUNet),
        (finetune.FineTuneTrainer_unet, "multitalent_unet", PlainConvUNet),
        (finetune.FineTuneTrainer_resenc, "multitalent_resenc", StridedSkipResidualEncoderUNet),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_each_family_builds_its_network_with_selectable_heads(trainer, template, network):
    built = build(trainer, template, classes=4)
    assert isinstance(built, network)
    assert len(built.decoder.seg_layers) == 5
    assert all(head.weight.shape[0] == 4 for head in built.decoder.seg_layers)
    scales = trainer.architecture.deep_supervision_scales(configuration(template))
    assert len(scales) == 5
    assert scales[0] == [1, 1, 1]


def test_nnunets_resenc_presets_get_the_network_of_the_published_checkpoints():
    architecture = dict(load_template("multitalent_resenc")["configurations"]["3d_fullres"]["architecture"])
    architecture["network_class_name"] = "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"
    built = build(TRAINERS["MultiTalentTrainer_resenc"], "multitalent_resenc", architecture=architecture)
    assert type(built) is StridedSkipResidualEncoderUNet


def test_plans_of_another_network_are_refused():
    with pytest.raises(UserError, match="expects plans for a PlainConvUNet, but these are for"):
        build(TRAINERS["MultiTalentTrainer_unet"], "multitalent_resenc")


class TestSwinUNETR:
    def test_is_built_at_feature_size_48_without_deep_supervision(self):
        pytest.importorskip("monai", reason="the extra 'monai' is not installed")
        trainer = multitalent.MultiTalentTrainer_swinunetr
        assert not trainer.enable_deep_supervision
        # Not on the meta device: MONAI computes with the network's numbers while it is built.
        plans = configuration("multitalent_unet", patch_size=[96, 96, 96])
        built: Any = trainer.architecture.build(plans, 1, 4, trainer.enable_deep_supervision)
        (head,) = built.decoder.seg_layers
        assert head.weight.shape[:2] == (4, 48)
        assert built.swinViT.layers1[0].use_checkpoint

    @pytest.mark.parametrize("trainer", [multitalent.MultiTalentTrainer_swinunetr, finetune.FineTuneTrainer_swinunetr])
    def test_is_trained_with_adamw(self, trainer):
        stand_in = SimpleNamespace(
            bare_network=torch.nn.Linear(2, 2),
            initial_lr=trainer.initial_lr,
            weight_decay=0.1,
            adam_epsilon=trainer.adam_epsilon,
            optimizer_name=trainer.optimizer_name,
            layer_decay=trainer.layer_decay,
        )
        optimizer = trainer.make_optimizer(stand_in)
        assert isinstance(optimizer, torch.optim.AdamW)
        (group,) = optimizer.param_groups
        assert (group["lr"], group["eps"], group["weight_decay"]) == (5e-4, 1e-4, 0.1)

    def test_refuses_patches_that_it_cannot_halve_five_times(self):
        with pytest.raises(UserError, match=r"multiples of 32, but the plans have \[80, 96, 96\]"):
            build(multitalent.MultiTalentTrainer_swinunetr, "multitalent_unet", patch_size=[80, 96, 96])

    def test_says_what_to_install(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "monai", None)
        monkeypatch.setitem(sys.modules, "monai.networks", None)
        monkeypatch.delitem(sys.modules, "nnunetv2_ext.architectures.swinunetr", raising=False)
        with pytest.raises(UserError, match=r"pip install 'nnunetv2-ext\[monai\]'"):
            SwinUNETRForPlans().build({"patch_size": [32, 32, 32]}, 1, 2, False)


@pytest.mark.slow
@pytest.mark.compile
def test_the_number_of_annotated_classes_does_not_recompile():
    """One compiled graph for the backbone, whatever the batch annotates."""
    network = STUNet(
        1, 20, features_per_stage=[4, 4], n_blocks_per_stage=1, strides=[[1, 1], [2, 2]], deep_supervision=True
    )
    counter = CompileCounterWithBackend("eager")
    compiled = torch.compile(network, backend=counter)
    image = torch.randn(2, 1, 8, 8)
    for number in (3, 5, 1, 2, 20, 1):
        channels = torch.arange(number)
        torch._dynamo.decorators.mark_unbacked(channels, 0)  # as the trainer does
        for output, expected in zip(compiled(image, channels=channels), network(image, channels=channels), strict=True):
            torch.testing.assert_close(output, expected)
    assert counter.frame_count == 1
