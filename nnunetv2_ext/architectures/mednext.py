"""MONAI's MedNeXt with the face that trainers and predictors of this package expect.

Roy et al., "MedNeXt: Transformer-driven Scaling of ConvNets for Medical Image Segmentation", MICCAI 2023,
https://arxiv.org/abs/2303.09975. The network is MONAI's; its output layers, transposed convolutions of kernel 1, are
ordinary ones here, which compute the same and have a row per class, and are named like nnU-Net's heads.

Needs the extra ``monai``.
"""

from __future__ import annotations

from typing import Any

from dynamic_network_architectures.building_blocks.helper import convert_dim_to_conv_op
from jaxtyping import Float
from monai.networks import nets
from torch import Tensor, nn

from nnunetv2_ext.architectures.segmentation_heads import SelectableHeads


class MedNeXt(SelectableHeads, nets.MedNeXt):
    """MedNeXt whose output layers are ``decoder.seg_layers``, lowest resolution first; other names are MONAI's.

    Args:
        input_channels: Image channels.
        num_classes: Output channels.
        spatial_dims: 2 or 3.
        kernel_size: Of the depthwise convolutions, 3 or 5 as published.
        levels: Outputs under deep supervision, each of half the resolution of the one before. By default one for each
            decoder stage and one for the bottleneck, as in MONAI's class; 1 where it was trained without.
        deep_supervision: Whether `forward` returns all levels.
        **further: As for ``monai.networks.nets.MedNeXt``.

    Images must have sides that are multiples of ``2 ** len(blocks_down)``, 16 for the published sizes.
    """

    # Typed here because nn.Module's attributes are anything to type checkers.
    stem: Any
    enc_stages: Any
    down_blocks: Any
    bottleneck: Any
    up_blocks: Any
    dec_stages: Any
    out_blocks: Any
    out_0: Any

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        *,
        spatial_dims: int = 3,
        kernel_size: int = 3,
        levels: int | None = None,
        use_residual_connection: bool = True,
        deep_supervision: bool = False,
        **further: Any,
    ) -> None:
        super().__init__(
            spatial_dims=spatial_dims,
            in_channels=input_channels,
            out_channels=num_classes,
            kernel_size=kernel_size,
            use_residual_connection=use_residual_connection,
            deep_supervision=True,
            **further,
        )
        outputs = [*self.out_blocks, self.out_0]
        del self.out_blocks, self.out_0
        convolution = convert_dim_to_conv_op(spatial_dims)
        heads = [convolution(output.conv_out.in_channels, num_classes, 1) for output in outputs]
        # The layer that sees the image, under the name by which nnU-Net's networks declare theirs.
        self.keys_to_in_proj = ("stem",)
        self.decoder = nn.Module()
        self.decoder.seg_layers = nn.ModuleList(heads[-levels:] if levels else heads)
        self.decoder.deep_supervision = deep_supervision

    def forward_features(self, image: Float[Tensor, "batch channels *spatial"]) -> list[Tensor]:
        """See `SelectableHeads.forward_features`; MONAI's own `forward` returns one level only in evaluation mode."""
        features = self.stem(image)
        skips = []
        for stage, down in zip(self.enc_stages, self.down_blocks, strict=True):
            skips.append(stage(features))
            features = down(skips[-1])
        outputs = [self.bottleneck(features)]
        for up, stage in zip(self.up_blocks, self.dec_stages, strict=True):
            outputs.append(stage(up(outputs[-1]) + skips.pop()))
        return outputs[-len(self.decoder.seg_layers) :] if self.decoder.deep_supervision else outputs[-1:]
