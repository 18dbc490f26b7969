"""Every network can evaluate its heads apart from its backbone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nnunetv2_ext.architectures.resenc import StridedSkipResidualEncoderUNet
from nnunetv2_ext.architectures.segmentation_heads import SelectableHeads, apply_heads
from nnunetv2_ext.architectures.stunet import STUNet
from nnunetv2_ext.architectures.unet import PlainConvUNet, ResidualEncoderUNet

N_CLASSES = 7


def unet_arguments(dimensions):
    return {
        "n_stages": 3,
        "features_per_stage": [4, 6, 8],
        "conv_op": nn.Conv3d if dimensions == 3 else nn.Conv2d,
        "kernel_sizes": [[3] * dimensions] * 3,
        "strides": [[1] * dimensions, [2] * dimensions, [2] * dimensions],
        "n_conv_per_stage_decoder": [1, 1],
        "conv_bias": True,
        "norm_op": nn.InstanceNorm3d if dimensions == 3 else nn.InstanceNorm2d,
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": nn.LeakyReLU,
        "nonlin_kwargs": {"inplace": True},
    }


def build(name, dimensions, deep_supervision):
    torch.manual_seed(0)
    common = {"input_channels": 1, "num_classes": N_CLASSES, "deep_supervision": deep_supervision}
    unet = unet_arguments(dimensions)
    if name == "stunet":
        return STUNet(**common, strides=unet["strides"], features_per_stage=[4, 6, 8], n_blocks_per_stage=1)
    if name == "unet":
        return PlainConvUNet(**common, **unet, n_conv_per_stage=[1, 1, 1])
    network_class = ResidualEncoderUNet if name == "resenc" else StridedSkipResidualEncoderUNet
    return network_class(**common, **unet, n_blocks_per_stage=[1, 1, 1])


networks = pytest.mark.parametrize("name", ["stunet", "unet", "resenc", "strided_resenc"])


@networks
@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("deep_supervision", [True, False])
def test_selected_channels_equal_the_same_channels_of_all(name, dimensions, deep_supervision):
    network = build(name, dimensions, deep_supervision)
    assert isinstance(network, SelectableHeads)
    image, channels = torch.randn(2, 1, *(8,) * dimensions), torch.tensor([5, 0, 3])
    with torch.no_grad():
        everything, selected = network(image), network(image, channels=channels)
        features = network.forward_features(image)
        by_hand = apply_heads(features, network.decoder.seg_layers, channels)
    if not deep_supervision:
        everything, selected = [everything], [selected]
    assert len(everything) == len(selected) == len(by_hand) == len(features) == (2 if deep_supervision else 1)
    for complete, part, again in zip(everything, selected, by_hand, strict=True):
        torch.testing.assert_close(part, complete[:, channels], atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(again, part)


@networks
def test_gradients_of_unselected_classes_are_zero_and_the_others_unchanged(name):
    network, channels = build(name, 2, True), torch.tensor([6, 2])
    image = torch.randn(2, 1, 8, 8)
    gradients = []
    for outputs in (network(image, channels=channels), [level[:, channels] for level in network(image)]):
        network.zero_grad()
        sum(level.square().mean() for level in outputs).backward()
        gradients.append({key: parameter.grad.clone() for key, parameter in network.named_parameters()})
    assert gradients[0].keys() == gradients[1].keys()
    for key, expected in gradients[1].items():
        torch.testing.assert_close(gradients[0][key], expected, atol=1e-6, rtol=1e-4)
    head = gradients[0]["decoder.seg_layers.0.weight"]
    assert not head[[0, 1, 3, 4, 5]].any()
    assert head[[2, 6]].any()


@pytest.mark.slow
@pytest.mark.compile
def test_selecting_channels_costs_no_new_graph_per_selection():
    """Batches annotate different numbers of classes; the compiled backbone must not notice."""
    torch._dynamo.reset()
    network = build("stunet", 2, False)
    graphs = []

    def count_graphs(graph_module, _):
        graphs.append(graph_module)
        return graph_module.forward

    compiled = torch.compile(network, backend=count_graphs)
    image = torch.randn(1, 1, 8, 8)
    for channels in ([1], [0, 4], [1, 2, 3], [0, 1, 2, 3, 4], [6]):
        selected = torch.tensor(channels)
        torch.testing.assert_close(compiled(image, channels=selected), network(image)[:, selected])
    # One for the first selection and one for selections of any length; the heads themselves are in neither.
    assert len(graphs) <= 2
    assert not any("index_select" in str(graph.code) for graph in graphs)
