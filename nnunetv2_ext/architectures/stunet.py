"""STU-Net: one residual U-Net scaled from 14 million to 1.4 billion parameters.

Huang et al., "STU-Net: Scalable and Transferable Medical Image Segmentation Models Empowered by Large-Scale Supervised
Pre-training", 2023, https://arxiv.org/abs/2304.06716.

The least work per decoder stage: the 1x1 convolution that halves the channels before the skip connection commutes with
nearest-neighbour interpolation, so it runs at low resolution (an eighth of the voxels for stride 2 in three
dimensions). Heads of lower resolutions are evaluated only when deep supervision asks for them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from dynamic_network_architectures.architectures.abstract_arch import AbstractDynamicNetworkArchitectures
from dynamic_network_architectures.building_blocks.helper import convert_dim_to_conv_op, get_matching_instancenorm
from dynamic_network_architectures.initialization.weight_init import InitWeights_He
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from nnunetv2_ext.architectures.segmentation_heads import SelectableHeads
from nnunetv2_ext.architectures.stunet_sizes import PUBLISHED_STRIDES as PUBLISHED_STRIDES
from nnunetv2_ext.architectures.stunet_sizes import STUNET_SIZES as STUNET_SIZES
from nnunetv2_ext.architectures.stunet_sizes import Stride
from nnunetv2_ext.utilities.errors import UserError


class ResidualBlock(nn.Module):
    """Convolution, norm, activation, convolution, norm, plus shortcut, activation; every convolution has a bias.

    Args:
        dimensions: 2 or 3.
        input_channels: Channels in.
        output_channels: Channels out.
        stride: Of the first convolution and of the shortcut.
        project: Whether the shortcut is a 1x1 convolution (without norm) or the identity.
    """

    def __init__(self, dimensions: int, input_channels: int, output_channels: int, stride: Stride, project: bool):
        super().__init__()
        conv = convert_dim_to_conv_op(dimensions)
        norm = get_matching_instancenorm(dimension=dimensions)
        self.conv1 = conv(input_channels, output_channels, 3, stride=tuple(stride), padding=1)
        self.norm1 = norm(output_channels, eps=1e-5, affine=True)
        self.act1 = nn.LeakyReLU(0.01, inplace=True)
        self.conv2 = conv(output_channels, output_channels, 3, padding=1)
        self.norm2 = norm(output_channels, eps=1e-5, affine=True)
        self.shortcut = conv(input_channels, output_channels, 1, stride=tuple(stride)) if project else nn.Identity()
        self.act2 = nn.LeakyReLU(0.01, inplace=True)

    def forward(self, x: Float[Tensor, "batch channels *spatial"]) -> Float[Tensor, "batch features *smaller"]:
        """``(batch, input_channels, *spatial)`` to ``(batch, output_channels, *spatial / stride)``."""
        out = self.norm2(self.conv2(self.act1(self.norm1(self.conv1(x)))))
        return self.act2(out.add_(self.shortcut(x)))


class Upsample(nn.Module):
    """1x1 convolution, then nearest-neighbour interpolation by the stride."""

    def __init__(self, dimensions: int, input_channels: int, output_channels: int, stride: Stride):
        super().__init__()
        self.conv = convert_dim_to_conv_op(dimensions)(input_channels, output_channels, 1)
        self.stride = tuple(float(step) for step in stride)

    def forward(self, x: Float[Tensor, "batch channels *spatial"]) -> Float[Tensor, "batch features *larger"]:
        """``(batch, input_channels, *spatial)`` to ``(batch, output_channels, *spatial * stride)``."""
        x = self.conv(x)
        if all(step == 1 for step in self.stride):
            return x
        return functional.interpolate(x, scale_factor=self.stride, mode="nearest")


class ResidualStage(nn.Sequential):
    """Residual blocks at one resolution; the first one changes channels and resolution.

    With ``activation_checkpointing`` the activations inside are recomputed in the backward pass instead of kept.
    """

    def __init__(
        self, dimensions: int, input_channels: int, output_channels: int, n_blocks: int, stride: Stride, recompute: bool
    ):
        blocks = [ResidualBlock(dimensions, input_channels, output_channels, stride, project=True)]
        no_stride = (1,) * dimensions
        for _ in range(n_blocks - 1):
            blocks.append(ResidualBlock(dimensions, output_channels, output_channels, no_stride, project=False))
        super().__init__(*blocks)
        self.activation_checkpointing = recompute

    def forward(self, x: Tensor) -> Tensor:
        """See `ResidualBlock`."""
        if self.activation_checkpointing and torch.is_grad_enabled():
            return checkpoint(super().forward, x, use_reentrant=False)
        return super().forward(x)


class STUNetEncoder(nn.Module):
    """The contracting path; returns the features of every stage, full resolution first."""

    def __init__(
        self,
        input_channels: int,
        features_per_stage: Sequence[int],
        n_blocks_per_stage: Sequence[int],
        strides: Sequence[Stride],
        activation_checkpointing: bool,
    ):
        super().__init__()
        dimensions = len(strides[0])
        # The names that nnU-Net's own encoders carry, for code that inspects a network.
        self.conv_op = convert_dim_to_conv_op(dimensions)
        self.output_channels = list(features_per_stage)
        self.strides = [list(stride) for stride in strides]
        self.kernel_sizes = [[3] * dimensions for _ in strides]
        channels = [input_channels, *features_per_stage]
        self.stages = nn.ModuleList(
            ResidualStage(dimensions, channels_in, channels_out, n_blocks, stride, activation_checkpointing)
            for channels_in, channels_out, n_blocks, stride in zip(
                channels[:-1], channels[1:], n_blocks_per_stage, strides, strict=True
            )
        )

    def forward(self, x: Float[Tensor, "batch channels *spatial"]) -> list[Tensor]:
        """Features of each stage, full resolution first."""
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features


class STUNetDecoder(nn.Module):
    """The expanding path; stages and heads are ordered from the lowest resolution to the full one."""

    def __init__(
        self,
        num_classes: int,
        features_per_stage: Sequence[int],
        n_blocks_per_stage: Sequence[int],
        strides: Sequence[Stride],
        deep_supervision: bool,
        activation_checkpointing: bool,
    ):
        super().__init__()
        dimensions = len(strides[0])
        conv = convert_dim_to_conv_op(dimensions)
        self.deep_supervision = deep_supervision
        self.num_classes = num_classes
        upsample_layers, stages, seg_layers = [], [], []
        for level in reversed(range(len(strides) - 1)):
            below, here = features_per_stage[level + 1], features_per_stage[level]
            upsample_layers.append(Upsample(dimensions, below, here, strides[level + 1]))
            no_stride = (1,) * dimensions
            n_blocks = n_blocks_per_stage[level]
            stages.append(ResidualStage(dimensions, 2 * here, here, n_blocks, no_stride, activation_checkpointing))
            seg_layers.append(conv(here, num_classes, 1))
        self.upsample_layers = nn.ModuleList(upsample_layers)
        self.stages = nn.ModuleList(stages)
        self.seg_layers = nn.ModuleList(seg_layers)

    def forward(self, skips: Sequence[Tensor]) -> list[Tensor]:
        """Features that need a head, lowest resolution first, from the encoder's features (full resolution first)."""
        *skips, x = skips
        features = []
        for upsample, stage, skip in zip(self.upsample_layers, self.stages, reversed(skips), strict=True):
            x = stage(torch.cat((upsample(x), skip), 1))
            features.append(x)
        return features if self.deep_supervision else features[-1:]


class STUNet(SelectableHeads, AbstractDynamicNetworkArchitectures):
    """Scalable and Transferable U-Net in two or three dimensions, with any number of stages.

    It can be named in a plans file (``"network_class_name": "nnunetv2_ext.architectures.stunet.STUNet"``) and then
    needs no trainer of its own.

    Args:
        input_channels: Image channels.
        num_classes: Output channels (background included for softmax outputs).
        features_per_stage: Channels of each encoder stage.
        n_blocks_per_stage: Residual blocks of each stage, or one number for all.
        strides: One stride per stage, (z, y, x) or (y, x); the first must be all ones. Their length decides between
            2D and 3D.
        deep_supervision: Whether `forward` returns all levels; also at ``network.decoder.deep_supervision``.
        activation_checkpointing: Recompute each stage's activations in the backward pass: less memory, a third more
            computation. For L and H on small GPUs.

    Raises:
        UserError: The numbers of features, blocks and strides differ, or the strides are not usable.

    Example:
        >>> network = STUNet(1, 105, **STUNET_SIZES["S"].arguments, strides=PUBLISHED_STRIDES, deep_supervision=True)
        >>> sum(parameter.numel() for parameter in network.parameters())
        14596941
    """

    encoder: STUNetEncoder
    decoder: STUNetDecoder

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        *,
        features_per_stage: Sequence[int],
        n_blocks_per_stage: int | Sequence[int],
        strides: Sequence[Stride],
        deep_supervision: bool = False,
        activation_checkpointing: bool = False,
    ):
        super().__init__()
        if isinstance(n_blocks_per_stage, int):
            n_blocks_per_stage = [n_blocks_per_stage] * len(features_per_stage)
        _check_stages(features_per_stage, n_blocks_per_stage, strides)
        self.encoder = STUNetEncoder(
            input_channels, features_per_stage, n_blocks_per_stage, strides, activation_checkpointing
        )
        self.decoder = STUNetDecoder(
            num_classes, features_per_stage, n_blocks_per_stage, strides, deep_supervision, activation_checkpointing
        )
        # Names by which nnU-Net's tools find the parts that depend on the input channels.
        self.key_to_encoder = "encoder.stages"
        self.key_to_stem = "encoder.stages.0"
        self.keys_to_in_proj = ("encoder.stages.0.0.conv1", "encoder.stages.0.0.shortcut")

    def forward_features(self, image: Float[Tensor, "batch channels *spatial"]) -> list[Tensor]:
        """See `SelectableHeads.forward_features`."""
        return self.decoder(self.encoder(image))

    @staticmethod
    def initialize(module: nn.Module) -> None:
        """Kaiming initialisation for leaky ReLU (slope 0.01) and zero biases, for ``network.apply``."""
        InitWeights_He(1e-2)(module)


def _check_stages(features: Sequence[int], n_blocks: Sequence[int], strides: Sequence[Stride]) -> None:
    if not 2 <= len(features) == len(n_blocks) == len(strides):
        raise UserError(
            f"Expected as many features_per_stage as n_blocks_per_stage and strides (at least 2), but got "
            f"{len(features)}, {len(n_blocks)} and {len(strides)}; correct the architecture in the plans."
        )
    dimensions = {len(stride) for stride in strides}
    if dimensions not in ({2}, {3}) or any(step < 1 for stride in strides for step in stride):
        raise UserError(f"Expected positive strides that all have 2 or all have 3 axes, but got {list(strides)}.")
    if any(step != 1 for step in strides[0]):
        raise UserError(f"Expected the first stride to be all ones, but got {list(strides[0])}.")
