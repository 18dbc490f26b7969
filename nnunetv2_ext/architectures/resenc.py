"""The residual-encoder U-Net of the published MultiTalent checkpoints.

Ulrich et al., "MultiTalent: A Multi-Dataset Approach to Medical Image Segmentation", MICCAI 2023,
https://arxiv.org/abs/2303.14444 (network of nnU-Net v1, Isensee et al., 2021).
"""

from __future__ import annotations

from typing import Any

from dynamic_network_architectures.building_blocks.helper import convert_conv_op_to_dim
from dynamic_network_architectures.building_blocks.residual import BasicBlockD
from dynamic_network_architectures.building_blocks.simple_conv_blocks import ConvDropoutNormReLU, StackedConvBlocks
from torch import nn

from nnunetv2_ext.architectures.unet import ResidualEncoderUNet


class StridedSkipResidualEncoderUNet(ResidualEncoderUNet):
    """nnU-Net's `ResidualEncoderUNet` with the skips and the stem of nnU-Net v1.

    Two things differ from the stock class, whose arguments it shares:

    - The skip of a block is a *strided* 1x1 convolution followed by a norm whenever the block changes resolution or
      channels. The stock block (ResNet-D) averages and projects only where channels change.
    - The stem's kernel is 3 along every axis, whatever ``kernel_sizes[0]`` says.

    Args:
        input_channels: Image channels.
        n_stages: Encoder stages.
        features_per_stage: Channels of each stage.
        conv_op: ``torch.nn.Conv2d`` or ``torch.nn.Conv3d``.
        kernel_sizes: One kernel per stage, (z, y, x) or (y, x).
        strides: One stride per stage, the first being all ones.
        n_blocks_per_stage: Residual blocks of each encoder stage.
        num_classes: Output channels.
        n_conv_per_stage_decoder: Convolutions of each decoder stage.
        **further: ``conv_bias``, ``norm_op``, ``nonlin``, ``deep_supervision`` ... as in the stock class.
    """

    def __init__(
        self,
        input_channels: int,
        n_stages: int,
        features_per_stage: list[int],
        conv_op: type[nn.Module],
        kernel_sizes: list[list[int]],
        strides: list[list[int]],
        n_blocks_per_stage: list[int],
        num_classes: int,
        n_conv_per_stage_decoder: int | list[int],
        **further: Any,
    ):
        super().__init__(
            input_channels,
            n_stages,
            features_per_stage,
            conv_op,
            kernel_sizes,
            strides,
            n_blocks_per_stage,
            num_classes,
            n_conv_per_stage_decoder,
            **further,
        )
        encoder = self.encoder
        norm = {"norm_op": encoder.norm_op, "norm_op_kwargs": encoder.norm_op_kwargs}
        encoder.stem = StackedConvBlocks(
            1,
            conv_op,
            input_channels,
            encoder.stem.output_channels,
            [3] * convert_conv_op_to_dim(conv_op),
            1,
            encoder.conv_bias,
            **norm,
            dropout_op=encoder.dropout_op,
            dropout_op_kwargs=encoder.dropout_op_kwargs,
            nonlin=encoder.nonlin,
            nonlin_kwargs=encoder.nonlin_kwargs,
        )
        # The stock encoder admits no block class but its own two, so its blocks get their skip afterwards.
        for block in encoder.modules():
            if isinstance(block, BasicBlockD) and isinstance(block.skip, nn.Module):
                skip = ConvDropoutNormReLU(
                    conv_op, block.input_channels, block.output_channels, 1, block.stride, **norm
                )
                block.skip = nn.Sequential(skip)
