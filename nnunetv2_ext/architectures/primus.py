"""Primus with the face that trainers and predictors of this package expect.

Wald et al., "Primus: Enforcing Attention Usage for 3D Medical Image Segmentation", 2025,
https://arxiv.org/abs/2503.01835. The network is that of ``dynamic_network_architectures``; added is the face that all
networks of one level have.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dynamic_network_architectures.architectures import primus
from jaxtyping import Float
from torch import Tensor

from nnunetv2_ext.architectures.segmentation_heads import OneLevel, SegmentationOutput


class Primus(primus.Primus):
    """Primus; the widths of its whole decoder (``up_projection``) depend on the number of classes.

    Args:
        input_channels: Image channels.
        num_classes: Output channels.
        embed_dim: Length of the tokens.
        eva_depth: Transformer blocks.
        eva_numheads: Heads of their attention.
        input_shape: Patch size (z, y, x), which every image must have: each place has an embedding of its own.
        patch_embed_size: Voxels of a token (z, y, x), of which the patch size is a multiple.
        init_values: Where the learned scale of each block begins; None for none.
        scale_attn_inner: Whether attention is normalised inside.
        deep_supervision: Whether `forward` returns a list; it has one level only.
        **further: As for ``dynamic_network_architectures.architectures.primus.Primus``.
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        *,
        embed_dim: int,
        eva_depth: int,
        eva_numheads: int,
        input_shape: Sequence[int],
        patch_embed_size: Sequence[int] = (8, 8, 8),
        init_values: float | None = 0.1,
        scale_attn_inner: bool = True,
        deep_supervision: bool = False,
        **further: Any,
    ) -> None:
        super().__init__(
            input_channels=input_channels,
            num_classes=num_classes,
            embed_dim=embed_dim,
            eva_depth=eva_depth,
            eva_numheads=eva_numheads,
            input_shape=tuple(input_shape),
            patch_embed_size=tuple(patch_embed_size),
            init_values=init_values,
            scale_attn_inner=scale_attn_inner,
            **further,
        )
        #: Tokens along each axis (z, y, x).
        self.grid = tuple(edge // token for edge, token in zip(input_shape, patch_embed_size, strict=True))
        self.decoder = OneLevel(None, deep_supervision)

    def forward(self, image: Float[Tensor, "batch channels z y x"]) -> SegmentationOutput:
        """Raw logits ``(batch, classes, z, y, x)``; with deep supervision a list with this one level."""
        output = super().forward(image)
        return [output] if self.decoder.deep_supervision else output
