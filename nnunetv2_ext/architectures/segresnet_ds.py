"""MONAI's SegResNetDS, and VISTA3D's automatic branch, with the face that trainers and predictors here expect.

The networks are MONAI's own classes; only their output layers are named like nnU-Net's heads.

Sources: Myronenko, "3D MRI brain tumor segmentation using autoencoder regularization", 2018,
https://arxiv.org/abs/1810.11654; He et al., "VISTA3D: A Unified Segmentation Foundation Model For 3D Medical Imaging",
CVPR 2025, https://arxiv.org/abs/2406.05285. Needs the extra ``monai``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from monai.networks import nets
from monai.networks.blocks import UnetrBasicBlock
from torch import Tensor, nn

from nnunetv2_ext.architectures.segmentation_heads import SelectableHeads


class SegResNetDS(SelectableHeads, nets.SegResNetDS):
    """SegResNetDS whose heads are ``decoder.seg_layers``, lowest resolution first; all other names are MONAI's.

    Args:
        input_channels: Image channels.
        num_classes: Output channels.
        init_filters: Channels of the first stage.
        blocks_down: Residual blocks of each encoder stage; images must have sides that are multiples of
            ``2 ** (stages - 1)``.
        levels: Outputs under deep supervision (MONAI's ``dsdepth``), each of half the resolution of the one before.
        norm: Normalisation, as MONAI names it.
        spatial_dims: 2 or 3.
        deep_supervision: Whether `forward` returns all levels.
        **further: As for ``monai.networks.nets.SegResNetDS``.
    """

    # Typed here because nn.Module's attributes are anything to type checkers.
    up_layers: Any

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        *,
        init_filters: int = 32,
        blocks_down: Sequence[int] = (1, 2, 2, 4),
        levels: int = 1,
        norm: str = "batch",
        spatial_dims: int = 3,
        deep_supervision: bool = False,
        **further: Any,
    ) -> None:
        super().__init__(
            spatial_dims=spatial_dims,
            init_filters=init_filters,
            in_channels=input_channels,
            out_channels=num_classes,
            blocks_down=tuple(blocks_down),
            dsdepth=levels,
            norm=norm,
            **further,
        )
        # The layer that sees the image, under the name by which nnU-Net's networks declare theirs.
        self.keys_to_in_proj = ("encoder.conv_init",)
        self.decoder = nn.Module()
        self.decoder.seg_layers = nn.ModuleList(level["head"] for level in list(self.up_layers)[-levels:])
        self.decoder.deep_supervision = deep_supervision
        for level in self.up_layers:
            level["head"] = nn.Identity()

    def forward_features(self, image: Float[Tensor, "batch channels *spatial"]) -> list[Tensor]:
        """See `SelectableHeads.forward_features`; MONAI's own `forward` returns one level only in evaluation mode."""
        *skips, features = self.encoder(image)
        outputs = []
        for level, skip in zip(self.up_layers, reversed(skips), strict=True):
            features = level["blocks"](level["upsample"](features) + skip)
            outputs.append(features)
        return outputs[-len(self.decoder.seg_layers) :] if self.decoder.deep_supervision else outputs[-1:]


class VISTA3D(SegResNetDS):
    """VISTA3D's automatic branch with one output channel for each class, which the published network is asked for.

    There, the embedding of a class becomes the kernel of a 1x1x1 convolution of the image's features; here these
    kernels are the head.

    Args:
        input_channels: Image channels.
        num_classes: Output channels.
        init_filters: Channels of the first stage, and length of the embeddings.
        norm: Normalisation, as MONAI names it.
        **further: As for `SegResNetDS`; there is one level.
    """

    def __init__(
        self, input_channels: int, num_classes: int, *, init_filters: int = 48, norm: str = "instance", **further: Any
    ) -> None:
        super().__init__(input_channels, num_classes, init_filters=init_filters, norm=norm, **further)
        convolution = type(self.decoder.seg_layers[0])
        dimensions = self.spatial_dims
        self.embedding = convolution(init_filters, init_filters, 1)
        self.image_post_mapping = nn.Sequential(
            *(UnetrBasicBlock(dimensions, init_filters, init_filters, 3, 1, "instance", res_block=True) for _ in "12")
        )

    def forward_features(self, image: Float[Tensor, "batch channels *spatial"]) -> list[Tensor]:
        """See `SelectableHeads.forward_features`; one level, ``(batch, init_filters, *spatial)``."""
        return [self.image_post_mapping(self.embedding(super().forward_features(image)[-1]))]
