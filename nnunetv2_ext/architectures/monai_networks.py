"""MONAI's SegResNet and UNet with the face that trainers and predictors of this package expect.

The networks are MONAI's own classes. What is added is the face: nnU-Net's constructor arguments, and a ``decoder`` with
the switch for deep supervision, of which both networks have one level. Images come in nnU-Net's order of axes
(z, y, x); weights of MONAI's bundles, trained in (x, y, z), have the last three axes of every convolution reversed when
they are imported (`nnunetv2_ext.checkpoints.formats.monai_bundle`).

Sources: Myronenko, "3D MRI brain tumor segmentation using autoencoder regularization", 2018,
https://arxiv.org/abs/1810.11654 (SegResNet); Kerfoot et al., "Left-Ventricle Quantification Using Residual U-Net",
2019, https://doi.org/10.1007/978-3-030-12029-0_40 (UNet). Needs the extra ``monai``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from monai.networks import nets
from torch import Tensor, nn

from nnunetv2_ext.architectures.segmentation_heads import OneLevel, SegmentationOutput, SelectableHeads


class SegResNet(SelectableHeads, nets.SegResNet):  # type: ignore[misc]  # MONAI's gives one level
    """SegResNet whose last convolution is ``decoder.seg_layers.0``; all other names are MONAI's.

    Args:
        input_channels: Image channels.
        num_classes: Output channels.
        init_filters: Channels of the first stage.
        blocks_down: Residual blocks of each encoder stage; images must have sides that are multiples of
            ``2 ** (stages - 1)``.
        blocks_up: Residual blocks of each decoder stage.
        dropout_prob: Dropout after the first convolution.
        spatial_dims: 2 or 3.
        deep_supervision: Whether the output comes as a list of levels; there is one level.
        **further: As for ``monai.networks.nets.SegResNet``.
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        *,
        init_filters: int = 32,
        blocks_down: Sequence[int] = (1, 2, 2, 4),
        blocks_up: Sequence[int] = (1, 1, 1),
        dropout_prob: float | None = 0.2,
        spatial_dims: int = 3,
        deep_supervision: bool = False,
        **further: Any,
    ) -> None:
        super().__init__(
            spatial_dims=spatial_dims,
            init_filters=init_filters,
            in_channels=input_channels,
            out_channels=num_classes,
            dropout_prob=dropout_prob,
            blocks_down=tuple(blocks_down),
            blocks_up=tuple(blocks_up),
            **further,
        )
        norm, activation, last = self.get_submodule("conv_final").children()
        self.conv_final = nn.Sequential(norm, activation)
        # The layer that sees the image, under the name by which nnU-Net's networks declare theirs.
        self.keys_to_in_proj = ("convInit.conv",)
        self.decoder = OneLevel(last.get_submodule("conv"), deep_supervision)

    def forward_features(self, image: Float[Tensor, "batch channels *spatial"]) -> list[Tensor]:
        """See `SelectableHeads.forward_features`; one level, ``(batch, init_filters, *spatial)``."""
        return [nets.SegResNet.forward(self, image)]


class UNet(nets.UNet):
    """MONAI's residual U-Net; names are MONAI's.

    Its last block is a residual unit over the classes themselves, so there are no heads apart from the decoder.

    Args:
        input_channels: Image channels.
        num_classes: Output channels.
        channels: Channels of each stage.
        strides: Stride between stages, one number or one list per step.
        num_res_units: Convolutions of each residual unit.
        norm: Normalisation, as MONAI names it.
        spatial_dims: 2 or 3.
        deep_supervision: Whether the output comes as a list of levels; there is one level.
        **further: As for ``monai.networks.nets.UNet``.
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        *,
        channels: Sequence[int] = (16, 32, 64, 128, 256),
        strides: Sequence[int | Sequence[int]] = (2, 2, 2, 2),
        num_res_units: int = 2,
        norm: str = "batch",
        spatial_dims: int = 3,
        deep_supervision: bool = False,
        **further: Any,
    ) -> None:
        super().__init__(
            spatial_dims=spatial_dims,
            in_channels=input_channels,
            out_channels=num_classes,
            channels=tuple(channels),
            # MONAI's annotation knows of one number per level, its code and documentation of one per axis, too.
            strides=tuple(stride if isinstance(stride, int) else tuple(stride) for stride in strides),  # type: ignore[misc]
            num_res_units=num_res_units,
            norm=norm,
            **further,
        )
        self.decoder = OneLevel(None, deep_supervision)

    def forward(  # type: ignore[override]  # MONAI's gives one level
        self, image: Float[Tensor, "batch channels *spatial"]
    ) -> SegmentationOutput:
        """Raw logits ``(batch, classes, *spatial)``; with deep supervision a list with this one level."""
        output = super().forward(image)
        return [output] if self.decoder.deep_supervision else output
