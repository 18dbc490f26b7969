"""MONAI's SwinUNETR with the face that trainers and predictors of this package expect.

Hatamizadeh et al., "Swin UNETR: Swin Transformers for Semantic Segmentation of Brain Tumors in MRI Images", 2022,
https://arxiv.org/abs/2201.01266. The network is MONAI's; only the output layer is named like nnU-Net's heads.

Needs the extra ``monai``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dynamic_network_architectures.building_blocks.helper import convert_dim_to_conv_op
from jaxtyping import Float
from monai.networks import nets
from torch import Tensor, nn

from nnunetv2_ext.architectures.segmentation_heads import OneLevel, SelectableHeads


class SwinUNETR(SelectableHeads, nets.SwinUNETR):
    """SwinUNETR whose output layer is ``decoder.seg_layers.0``; all other names are MONAI's.

    Args:
        input_channels: Image channels.
        num_classes: Output channels.
        feature_size: Channels of the first stage, a multiple of 12.
        dimensions: 2 or 3.
        activation_checkpointing: Recompute the transformer's activations in the backward pass.
        reversed_axes: Whether the network sees (x, y, z): where the weights come from MONAI, whose attention cannot be
            turned as kernels are (windows that reach beyond a small image are not symmetric).
        deep_supervision: Whether `forward` returns a list; it has one level only.
        **further: As for ``monai.networks.nets.SwinUNETR``.

    Images must have sides that are multiples of 32.
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        *,
        feature_size: int = 48,
        dimensions: int = 3,
        activation_checkpointing: bool = True,
        reversed_axes: bool = False,
        deep_supervision: bool = False,
        **further: Any,
    ):
        super().__init__(
            in_channels=input_channels,
            out_channels=num_classes,
            feature_size=feature_size,
            spatial_dims=dimensions,
            use_checkpoint=activation_checkpointing,
            **further,
        )
        self.out = nn.Identity()  # type: ignore[assignment]  # the heads stand in the decoder
        self.reversed_axes = reversed_axes
        # The layers that see the image, under the name by which nnU-Net's networks declare theirs.
        self.keys_to_in_proj = ("swinViT.patch_embed.proj", "encoder1.layer.conv1.conv", "encoder1.layer.conv3.conv")
        head = convert_dim_to_conv_op(dimensions)(feature_size, num_classes, 1)
        self.decoder = OneLevel(head, deep_supervision)

    def forward_features(self, image: Float[Tensor, "batch channels *spatial"]) -> list[Tensor]:
        """See `SelectableHeads.forward_features`; one level, ``(batch, feature_size, *spatial)``."""
        if not self.reversed_axes:
            return [nets.SwinUNETR.forward(self, image)]
        features = nets.SwinUNETR.forward(self, _turned(image))
        return [_turned(features)]

    def _check_input_size(self, spatial_shape: Sequence[int]) -> None:
        # MONAI's method asks numpy, at which torch.compile would break the graph.
        if any(size % 32 for size in spatial_shape):
            raise ValueError(f"Expected sides that are multiples of 32, but got an image of {tuple(spatial_shape)}.")


def _turned(volume: Tensor) -> Tensor:
    return volume.permute(0, 1, *range(volume.ndim - 1, 1, -1)).contiguous()
