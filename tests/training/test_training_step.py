"""One step of mixed-precision training of every family of networks, as it is and compiled."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from nnunetv2_ext.architectures import families
from nnunetv2_ext.architectures.label_tree_network import give_label_tree
from nnunetv2_ext.architectures.multi_head import MultiHeadPlainConvUNet, MultiHeadResidualEncoderUNet
from nnunetv2_ext.architectures.primus import Primus
from nnunetv2_ext.architectures.resenc import StridedSkipResidualEncoderUNet
from nnunetv2_ext.architectures.stunet import STUNet
from nnunetv2_ext.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from nnunetv2_ext.labels.label_tree import LabelTree
from nnunetv2_ext.training.loss.deep_supervision import PartialLabelDeepSupervision, halving_weights
from nnunetv2_ext.training.loss.label_tree_loss import LabelTreeLoss
from nnunetv2_ext.training.loss.partial_label_loss import PartialLabelLoss
from nnunetv2_ext.training.loss.source_heads_loss import HeadClasses, SourceHeadsLoss
from nnunetv2_ext.training.options import TrainingOptions
from nnunetv2_ext.training.run_training import TrainingRun, make_trainer

TREE = LabelTree.from_nested({"background": {}, "body": {"liver": {}, "spleen": {}}})
CLASSES = len(TREE)
STRIDES = [[1, 1, 1], [1, 2, 2], [2, 2, 2]]
FEATURES = [4, 6, 8]
SHAPE = (32, 64, 64)


def stunet():
    return STUNet(
        1,
        CLASSES,
        features_per_stage=FEATURES,
        n_blocks_per_stage=[1, 1, 1],
        strides=STRIDES,
        deep_supervision=True,
    )


def unet(network, **arguments):
    return network(
        1, num_classes=CLASSES, n_stages=3, features_per_stage=FEATURES, conv_op=nn.Conv3d, kernel_sizes=[[3] * 3] * 3,
        strides=STRIDES, n_conv_per_stage_decoder=[1, 1], norm_op=nn.InstanceNorm3d, norm_op_kwargs={"affine": True},
        nonlin=nn.LeakyReLU, deep_supervision=True, **arguments,
    )  # fmt: skip


def several_heads(network, **arguments):
    return OfSecondSource(unet(network, heads={"000": 2, "001": CLASSES}, **arguments))


class OfSecondSource(nn.Module):
    """A network of several heads, told that the image is of the second source."""

    def __init__(self, network):
        super().__init__()
        self.network = network
        self.sources = torch.tensor([1])

    def forward(self, image):
        return self.network(image, self.sources)


def primus():
    return Primus(1, CLASSES, embed_dim=36, eva_depth=1, eva_numheads=6, input_shape=SHAPE, deep_supervision=True)


def monai(module, name, **arguments):
    pytest.importorskip("monai", reason="the extra 'monai' is not installed")
    network = getattr(importlib.import_module(f"nnunetv2_ext.architectures.{module}"), name)
    return network(1, CLASSES, **arguments, deep_supervision=True)


FAMILIES: dict[str, Callable[[], nn.Module]] = {
    "STUNet": stunet,
    "STUNet with a label tree": lambda: give_label_tree(stunet(), TREE.parent_values()),
    "PlainConvUNet": functools.partial(unet, PlainConvUNet, n_conv_per_stage=1),
    "ResidualEncoderUNet": functools.partial(unet, ResidualEncoderUNet, n_blocks_per_stage=1),
    "StridedSkipResidualEncoderUNet": functools.partial(unet, StridedSkipResidualEncoderUNet, n_blocks_per_stage=1),
    "MultiHeadPlainConvUNet": functools.partial(several_heads, MultiHeadPlainConvUNet, n_conv_per_stage=1),
    "MultiHeadResidualEncoderUNet": functools.partial(
        several_heads, MultiHeadResidualEncoderUNet, n_blocks_per_stage=1
    ),
    "Primus": primus,
    "MedNeXt": functools.partial(
        monai, "mednext", "MedNeXt", init_filters=4, blocks_down=(1, 1), blocks_bottleneck=1, blocks_up=(1, 1)
    ),
    "SegResNet": functools.partial(
        monai, "monai_networks", "SegResNet", init_filters=8, blocks_down=(1, 1), blocks_up=(1,)
    ),
    "SegResNetDS": functools.partial(
        monai, "segresnet_ds", "SegResNetDS", init_filters=8, blocks_down=(1, 1, 1), levels=2
    ),
    "VISTA3D": functools.partial(monai, "segresnet_ds", "VISTA3D", init_filters=8, blocks_down=(1, 1)),
    "UNet": functools.partial(monai, "monai_networks", "UNet", channels=(4, 8), strides=([2, 2, 2],)),
    "SwinUNETR": functools.partial(monai, "swinunetr", "SwinUNETR", feature_size=12),
}


def test_no_family_is_left_out():
    assert {family.class_path.rpartition(".")[2] for family in families.FAMILIES} <= set(FAMILIES)


def loss_of(family, levels):
    weights = halving_weights(levels)
    if "MultiHead" in family:
        every = [[value] for value in range(1, CLASSES)]
        loss = SourceHeadsLoss([HeadClasses([[1]], [[1]]), HeadClasses(every, every)], CLASSES)
        return functools.partial(PartialLabelDeepSupervision(loss, weights), classes=torch.tensor([1]))
    if "tree" in family:
        return PartialLabelDeepSupervision(LabelTreeLoss(TREE), weights)
    return PartialLabelDeepSupervision(PartialLabelLoss(torch.eye(CLASSES, dtype=torch.bool)), weights)


@pytest.mark.parametrize(
    "compiled", [False, pytest.param(True, marks=[pytest.mark.slow, pytest.mark.compile])], ids=["eager", "compiled"]
)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_moves_all_weights_and_overflows_nowhere(family, compiled, device):
    if compiled and family == "SwinUNETR" and device.type == "cpu":
        # Not finite after other tests of this file, 7e37 once in four runs of its own; never as it is. Whose defect it
        # is, is not known.
        pytest.skip("compiled, its gradients in bfloat16 on CPUs are not finite now and then; the cause is not known")
    torch.manual_seed(0)
    network = FAMILIES[family]().to(device).train()
    image = torch.randn(1, 1, *SHAPE, device=device)
    label_map = torch.randint(0, CLASSES, (1, 1, *SHAPE), device=device)
    label_map[label_map == TREE.value("body")] = TREE.value("liver")
    annotated = torch.tensor([[name in TREE.leaves() for name in TREE]])
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    # As nnU-Net trains on CUDA, where half precision is float16; on CPUs it is bfloat16.
    scaler = torch.amp.GradScaler(device.type)
    torch.compiler.reset()
    # Inductor needs a compiler for C++ on CPUs; the graph is the same.
    step = torch.compile(network, backend="inductor" if device.type == "cuda" else "aot_eager") if compiled else network
    with torch.autocast(device.type):
        outputs = step(image)
        outputs = list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]
        label_maps = [nn.functional.interpolate(label_map.float(), output.shape[2:]).long() for output in outputs]
        loss = loss_of(family, len(outputs))(outputs, label_maps, annotated)
    scale = scaler.get_scale()
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    assert torch.isfinite(loss)
    assert scaler.get_scale() == scale, "a gradient was not finite, and the step was left out"
    # The lowest level has no weight, and the bias of a convolution that is normalised afterwards no gradient.
    still = {name for name, parameter in network.named_parameters() if torch.equal(parameter, before[name])}
    assert not [name for name in still if name.endswith("weight") and "seg_layers" not in name]


@pytest.mark.compile
@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_the_backbone_is_one_graph_that_is_compiled_once(family, device):
    torch.compiler.reset()
    counters.clear()
    torch.manual_seed(0)
    network = FAMILIES[family]().to(device).train()
    step = torch.compile(network, backend="inductor" if device.type == "cuda" else "aot_eager")
    optimizer = torch.optim.SGD(network.parameters(), 0.01)
    graphs = []
    for _ in range(5):
        optimizer.zero_grad(set_to_none=True)
        outputs = step(torch.randn(1, 1, *SHAPE, device=device))
        levels = outputs if isinstance(outputs, (list, tuple)) else [outputs]
        sum(level.square().mean() for level in levels).backward()
        optimizer.step()
        graphs.append(counters["stats"]["unique_graphs"])
    # The heads of an image's source stay outside of the graph.
    assert all("MultiHead._outputs" in reason for reason in counters["graph_break"])
    assert bool(counters["graph_break"]) == ("MultiHead" in family)
    assert graphs == [1] * 5


# Trainer -> dataset, and the functions that stay outside of the graph: heads (and stems) that change with the classes
# or sources of a batch.
TRAINERS = {
    "FineTuneTrainer_unet": ("tiny_dataset", ()),
    "MultiTalentTrainer_unet": ("tiny_collection", ("apply_heads",)),
    "MultiTalentV2Trainer": ("tiny_collection", ("MultiHead._outputs",)),
    "MultiTalentV2Trainer_multistems": ("tiny_collection", ("MultiHead._outputs", "_run_stems")),
    "LabelTreeTrainer_unet": ("tiny_tree_collection", ()),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINERS)
def test_a_step_of_the_trainer(name, device, request, monkeypatch):
    monkeypatch.setenv("nnUNet_compile", "false")
    dataset = request.getfixturevalue(TRAINERS[name][0])
    options = TrainingOptions(batch_size=2, num_workers=0, seed=1)
    trainer = make_trainer(TrainingRun(dataset, "3d_fullres", 0, name, device=device.type, options=options))
    trainer.initialize()
    batch = next(iter(trainer.get_dataloaders()[0]))
    assert (trainer.grad_scaler is not None) == (device.type == "cuda")
    before = [parameter.detach().clone() for parameter in trainer.network.parameters()]
    # On CUDA the first scale of the gradients, 65536, may be too large for a step or two, and is halved.
    losses = [float(trainer.train_step(batch)["loss"]) for _ in range(1 if device.type == "cpu" else 8)]
    assert all(map(torch.isfinite, map(torch.tensor, losses)))
    assert not all(map(torch.equal, before, trainer.network.parameters()))


@pytest.mark.compile
@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINERS)
def test_steps_of_the_trainer_compile_nothing_after_the_third(name, device, request, monkeypatch):
    monkeypatch.setenv("nnUNet_compile", "false")
    dataset = request.getfixturevalue(TRAINERS[name][0])
    options = TrainingOptions(batch_size=2, num_workers=0, seed=1)
    trainer = make_trainer(TrainingRun(dataset, "3d_fullres", 0, name, device=device.type, options=options))
    trainer.initialize()
    torch.compiler.reset()
    counters.clear()
    trainer.network = torch.compile(trainer.network, backend="inductor" if device.type == "cuda" else "aot_eager")
    loader, graphs = trainer.get_dataloaders()[0], []
    for _ in range(6):
        trainer.train_step(next(loader))
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs[2:] == graphs[2:3] * 4
    outside = TRAINERS[name][1]
    assert all(any(function in reason for function in outside) for reason in counters["graph_break"])
