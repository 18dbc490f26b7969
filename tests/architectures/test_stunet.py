"""STUNet against its published order of operations, written out with functional calls."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from nnunetv2_ext.architectures.stunet import PUBLISHED_STRIDES, STUNET_SIZES, STUNet
from nnunetv2_ext.architectures.stunet_sizes import strides_that_fit, stunet_strides
from nnunetv2_ext.utilities.errors import UserError

PARAMETERS = {"S": 14_596_941, "B": 58_262_669, "L": 440_302_605, "H": 1_457_326_221}


def build(size, **arguments):
    return STUNet(
        arguments.pop("input_channels", 1),
        arguments.pop("num_classes", 105),
        **STUNET_SIZES[size].arguments,
        strides=PUBLISHED_STRIDES,
        **arguments,
    )


def published_forward(network, image):
    """Upsample, then convolve; all heads; nothing shared with the network's own forward but its weights."""
    weights = network.state_dict()
    strides = network.encoder.strides
    dimensions = len(strides[0])
    conv = functional.conv3d if dimensions == 3 else functional.conv2d

    def convolve(x, name, stride=1, padding=0):
        return conv(x, weights[f"{name}.weight"], weights[f"{name}.bias"], stride=stride, padding=padding)

    def normalise(x, name):
        return functional.instance_norm(x, weight=weights[f"{name}.weight"], bias=weights[f"{name}.bias"], eps=1e-5)

    def stage(x, name, stride):
        index = 0
        while f"{name}.{index}.conv1.weight" in weights:
            block, step = f"{name}.{index}", tuple(stride) if index == 0 else 1
            out = functional.leaky_relu(normalise(convolve(x, f"{block}.conv1", step, 1), f"{block}.norm1"), 0.01)
            out = normalise(convolve(out, f"{block}.conv2", 1, 1), f"{block}.norm2")
            shortcut = convolve(x, f"{block}.shortcut", step) if index == 0 else x
            x = functional.leaky_relu(out + shortcut, 0.01)
            index += 1
        return x

    skips = []
    for level, stride in enumerate(strides):
        image = stage(image, f"encoder.stages.{level}", stride)
        skips.append(image)
    x, outputs = skips.pop(), []
    for index, stride in enumerate(reversed(strides[1:])):
        x = functional.interpolate(x, scale_factor=tuple(map(float, stride)), mode="nearest")
        x = convolve(x, f"decoder.upsample_layers.{index}.conv")
        x = stage(torch.cat((x, skips.pop()), 1), f"decoder.stages.{index}", (1,) * dimensions)
        outputs.append(convolve(x, f"decoder.seg_layers.{index}"))
    return outputs[::-1]


@pytest.mark.parametrize("size", STUNET_SIZES)
def test_parameter_counts_are_the_published_ones(size):
    with torch.device("meta"):
        network = build(size)
    assert sum(parameter.numel() for parameter in network.parameters()) == PARAMETERS[size]


@st.composite
def architectures(draw):
    dimensions = draw(st.sampled_from([2, 3]))
    n_stages = draw(st.integers(2, 4))
    strides = [(1,) * dimensions] + [
        tuple(draw(st.lists(st.sampled_from([1, 2]), min_size=dimensions, max_size=dimensions)))
        for _ in range(n_stages - 1)
    ]
    return {
        "input_channels": draw(st.integers(1, 3)),
        "num_classes": draw(st.integers(1, 4)),
        "features_per_stage": draw(st.lists(st.integers(1, 6), min_size=n_stages, max_size=n_stages)),
        "n_blocks_per_stage": draw(st.lists(st.integers(1, 3), min_size=n_stages, max_size=n_stages)),
        "strides": strides,
    }


@settings(max_examples=30, deadline=None)
@given(architecture=architectures(), seed=st.integers(0, 100))
def test_outputs_equal_the_published_order_of_operations(architecture, seed):
    torch.manual_seed(seed)
    network = STUNet(**architecture, deep_supervision=True).double()
    dimensions = len(architecture["strides"][0])
    shape = [2 * math.prod(stride[axis] for stride in architecture["strides"]) for axis in range(dimensions)]
    image = torch.randn(2, architecture["input_channels"], *shape, dtype=torch.float64)
    with torch.no_grad():
        expected = published_forward(network, image)
        outputs = network(image)
        network.decoder.deep_supervision = False
        full_resolution = network(image)
    assert len(outputs) == len(expected) == len(architecture["strides"]) - 1
    for output, reference in zip(outputs, expected, strict=True):
        torch.testing.assert_close(output, reference, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(full_resolution, expected[0], atol=1e-9, rtol=1e-9)


@pytest.fixture
def tiny():
    torch.manual_seed(0)
    return STUNet(1, 3, features_per_stage=[4, 6, 8], n_blocks_per_stage=2, strides=[(1, 1, 1), (1, 2, 2), (2, 2, 2)])


def test_auxiliary_heads_are_not_computed_without_deep_supervision(tiny):
    calls = []
    for level, head in enumerate(tiny.decoder.seg_layers):
        head.register_forward_hook(lambda *_, level=level: calls.append(level))
    tiny(torch.randn(1, 1, 4, 8, 8))
    assert calls == [1]


def test_convolution_before_interpolation_runs_at_low_resolution(tiny):
    shapes = []
    for upsample in tiny.decoder.upsample_layers:
        upsample.conv.register_forward_hook(lambda _, __, output: shapes.append(tuple(output.shape[2:])))
    tiny(torch.randn(1, 1, 4, 8, 8))
    assert shapes == [(2, 2, 2), (4, 4, 4)]


def test_activation_checkpointing_changes_neither_outputs_nor_gradients(tiny):
    recomputing = STUNet(
        1,
        3,
        features_per_stage=[4, 6, 8],
        n_blocks_per_stage=2,
        strides=[(1, 1, 1), (1, 2, 2), (2, 2, 2)],
        activation_checkpointing=True,
    )
    recomputing.load_state_dict(tiny.state_dict())
    image = torch.randn(2, 1, 4, 8, 8)
    calls = []
    encoder: Any = recomputing.encoder
    encoder.stages[0][0].conv1.register_forward_hook(lambda *_: calls.append(1))
    gradients = []
    for network in (tiny, recomputing):
        network(image).square().mean().backward()
        gradients.append([parameter.grad for parameter in network.parameters() if parameter.grad is not None])
    assert len(calls) == 2, "the stage must run once forward and once again in the backward pass"
    for expected, found in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected)


def test_initialisation_is_kaiming_for_leaky_relu_with_zero_biases():
    torch.manual_seed(0)
    network = STUNet(1, 3, features_per_stage=[32, 64], n_blocks_per_stage=1, strides=[(1, 1, 1), (2, 2, 2)])
    network.apply(network.initialize)
    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            assert module.bias is not None
            assert not module.bias.any()
    encoder: Any = network.encoder
    weight = encoder.stages[1][0].conv2.weight
    expected = math.sqrt(2 / (1 + 0.01**2) / (64 * 27))
    assert weight.std().item() == pytest.approx(expected, rel=0.02)


def test_a_plans_file_may_name_the_class_without_a_trainer():
    """The way nnU-Net's get_network_from_plans builds a network: everything by keyword, then `initialize`."""
    arguments: dict[str, Any] = {
        "features_per_stage": [4, 8],
        "n_blocks_per_stage": [1, 1],
        "strides": [[1, 1, 1], [2, 2, 2]],
    }
    network = STUNet(input_channels=1, num_classes=2, deep_supervision=True, **arguments)
    network.apply(network.initialize)
    assert [tuple(output.shape) for output in network(torch.randn(1, 1, 4, 4, 4))] == [(1, 2, 4, 4, 4)]


@pytest.mark.slow
@pytest.mark.compile
def test_torch_compile_follows_the_whole_forward_as_one_graph(tiny):
    image = torch.randn(1, 1, 4, 8, 8)
    compiled = torch.compile(tiny, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(image), tiny(image))


def test_plan_strides_are_cut_or_padded_to_the_published_number():
    plan = [[1, 1, 1], [1, 2, 2], [2, 2, 2]]
    assert stunet_strides(plan) == [*plan, [1, 1, 1], [1, 1, 1], [1, 1, 1]]
    assert stunet_strides([[1, 1]] + [[2, 2]] * 7) == [[1, 1]] + [[2, 2]] * 5


@settings(max_examples=50, deadline=None)
@given(
    patch=st.lists(st.integers(2, 40), min_size=3, max_size=3),
    strides=st.lists(st.lists(st.integers(1, 2), min_size=3, max_size=3), min_size=1, max_size=7),
)
def test_strides_that_fit_never_reach_a_single_voxel(patch, strides):
    strides = [[1, 1, 1], *strides]
    fitting = strides_that_fit(strides, patch)
    sizes, size = [], patch
    for stride in fitting:
        size = [math.ceil(extent / step) for extent, step in zip(size, stride, strict=True)]
        sizes.append(math.prod(size))
    assert min(sizes) > 1
    changed = [index for index, pair in enumerate(zip(strides, fitting, strict=True)) if pair[0] != pair[1]]
    assert all(fitting[index] == [1, 1, 1] for index in changed)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"strides": [(1, 1, 1), (2, 2, 2)]}, "3, 3 and 2"),
        ({"strides": [(2, 2, 2), (2, 2, 2), (2, 2, 2)]}, "first stride"),
        ({"strides": [(1, 1, 1), (2, 2), (2, 2, 2)]}, "all have 2 or all have 3"),
        ({"strides": [(1, 1, 1), (0, 2, 2), (2, 2, 2)]}, "positive"),
    ],
)
def test_impossible_architectures_are_refused(arguments, words):
    with pytest.raises(UserError, match=words):
        STUNet(1, 2, features_per_stage=[4, 4, 4], n_blocks_per_stage=1, **arguments)
