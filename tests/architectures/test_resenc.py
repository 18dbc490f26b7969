"""What sets the published residual encoder apart from the stock one; its outputs are tested with its checkpoint."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from nnunetv2_ext.architectures.resenc import StridedSkipResidualEncoderUNet


def build():
    torch.manual_seed(0)
    return StridedSkipResidualEncoderUNet(
        input_channels=1,
        n_stages=3,
        features_per_stage=[4, 4, 8],
        conv_op=nn.Conv3d,
        kernel_sizes=[[1, 3, 3], [3, 3, 3], [3, 3, 3]],
        strides=[[1, 1, 1], [1, 2, 2], [2, 2, 2]],
        n_blocks_per_stage=[2, 1, 2],
        num_classes=2,
        n_conv_per_stage_decoder=[1, 1],
        norm_op=nn.InstanceNorm3d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
        deep_supervision=True,
    )


def test_skip_is_a_strided_convolution_and_norm_even_where_channels_stay():
    block = build().encoder.stages[1].blocks[0]
    features = torch.randn(1, 4, 4, 8, 8)
    skip = block.skip[0]
    expected = functional.instance_norm(
        functional.conv3d(features, skip.conv.weight, stride=(1, 2, 2)), weight=skip.norm.weight, bias=skip.norm.bias
    )
    torch.testing.assert_close(block.skip(features), expected)


def test_blocks_without_change_of_resolution_or_channels_keep_the_identity():
    names = [name for name in build().encoder.state_dict() if ".skip." in name]
    assert {name.split(".skip.")[0] for name in names} == {"stages.1.blocks.0", "stages.2.blocks.0"}


def test_stem_kernel_is_full_whatever_the_first_stage_says():
    encoder = build().encoder
    assert encoder.stem.convs[0].conv.kernel_size == (3, 3, 3)
    assert encoder.stages[0].blocks[0].conv1.conv.kernel_size == (1, 3, 3)


def test_levels_come_full_resolution_first():
    network = build()
    network.apply(network.initialize)
    shapes = [tuple(level.shape[2:]) for level in network(torch.randn(1, 1, 4, 8, 8))]
    assert shapes == [(4, 8, 8), (4, 4, 4)]
