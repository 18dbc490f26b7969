"""The face that all networks of this package share: decoder features apart from the segmentation heads.

A network with 1000 classes spends most of a training step on heads whose classes nobody annotated in the batch.
Networks that separate the two halves of their forward pass let a caller pay for the classes it needs::

    outputs = network(image)                           # every class, as nnU-Net expects
    outputs = network(image, channels=torch.tensor([3, 7]))   # two classes, same backbone, same weights

    features = network.forward_features(image)         # lowest resolution first, only those that need a head
    outputs = apply_heads(features, network.decoder.seg_layers, channels)

A new network joins by inheriting `SelectableHeads` and writing ``forward_features``; its ``decoder`` holds
``seg_layers`` and ``deep_supervision`` under the names that nnU-Net uses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

#: What a network returns: one tensor, or with deep supervision one per level, full resolution first.
SegmentationOutput = Tensor | list[Tensor]


class SelectableHeads(nn.Module):
    """Base of the package's networks: runs the backbone, then the heads that are asked for."""

    # Typed by the subclasses; nnU-Net's own encoders and decoders carry no annotations.
    encoder: Any
    decoder: Any

    def forward_features(self, image: Float[Tensor, "batch channels *spatial"]) -> list[Tensor]:
        """Runs everything but the heads of a network whose decoder is nnU-Net's ``UNetDecoder``.

        Args:
            image: ``(batch, channels, z, y, x)`` or ``(batch, channels, y, x)``.

        Returns:
            Feature maps, lowest resolution first: those of every decoder stage with deep supervision, otherwise only
            the one of full resolution. Networks with another decoder override this method.
        """
        return decode(self.decoder, self.encoder(image))

    def forward(
        self, image: Float[Tensor, "batch channels *spatial"], channels: Int[Tensor, " selected"] | None = None
    ) -> SegmentationOutput:
        """Raw logits.

        Args:
            image: ``(batch, channels, z, y, x)`` or ``(batch, channels, y, x)``.
            channels: Indices of the output channels to compute, in the order wanted; all of them by default.

        Returns:
            ``(batch, classes, z, y, x)``; with deep supervision a list of them, full resolution first.
        """
        features = self.forward_features(image)
        heads = self.decoder.seg_layers
        outputs = apply_heads(features, heads) if channels is None else _apply_selected_heads(features, heads, channels)
        return outputs if self.decoder.deep_supervision else outputs[0]


class OneLevel(nn.Module):
    """What nnU-Net asks of a decoder: whether all levels are returned (there is only one), and heads if there are."""

    def __init__(self, head: nn.Module | None, deep_supervision: bool) -> None:
        super().__init__()
        if head is not None:
            self.seg_layers = nn.ModuleList([head])
        self.deep_supervision = deep_supervision


def decode(decoder: Any, skips: Sequence[Tensor]) -> list[Tensor]:
    """Runs everything but the heads of nnU-Net's ``UNetDecoder``.

    Args:
        decoder: The decoder.
        skips: Outputs of the encoder, full resolution first.

    Returns:
        As `SelectableHeads.forward_features`.
    """
    *skips, features = skips
    outputs: list[Tensor] = []
    for upsample, stage, skip in zip(decoder.transpconvs, decoder.stages, reversed(skips), strict=True):
        features = stage(torch.cat((upsample(features), skip), 1))
        outputs.append(features)
    return outputs if decoder.deep_supervision else outputs[-1:]


def apply_heads(
    features: Sequence[Tensor], seg_layers: nn.ModuleList, channels: Int[Tensor, " selected"] | None = None
) -> list[Tensor]:
    """Evaluates 1x1 segmentation heads on decoder features.

    Args:
        features: From ``forward_features``: lowest resolution first, as many as there are levels to evaluate.
        seg_layers: ``decoder.seg_layers``, lowest resolution first; the last ``len(features)`` are used.
        channels: Indices of the output channels to compute; all of them by default. The cost is proportional to their
            number. All parameters stay part of the graph (unselected rows get zero gradient), so that
            ``DistributedDataParallel`` finds none unused.

    Returns:
        Logits ``(batch, len(channels), *spatial)`` per level, full resolution first.
    """
    return [_apply_head(feature, seg_layers[-1 - level], channels) for level, feature in enumerate(reversed(features))]


def _apply_head(feature: Tensor, head: Any, channels: Tensor | None) -> Tensor:
    if channels is None:
        return head(feature)
    bias = None if head.bias is None else head.bias.index_select(0, channels)
    convolution = functional.conv3d if head.weight.ndim == 5 else functional.conv2d
    return convolution(feature, head.weight.index_select(0, channels), bias)


# Kept out of compiled graphs: convolutions whose number of outputs changes with every batch gain nothing from being
# compiled. The backbone around this call stays compiled.
_apply_selected_heads = torch.compiler.disable(apply_heads)


def shallow_copy(module: Any, kind: type[nn.Module] | None = None) -> Any:
    """A module with the same parts, which can be exchanged without touching the original.

    Args:
        module: The original.
        kind: Class of the copy, where that is to be another one.
    """
    clone = nn.Module.__new__(kind or type(module))
    clone.__dict__.update(module.__dict__, _modules=dict(module._modules))
    # What `torch.compile` made of the original would go on running it.
    clone.__dict__.pop("_compiled_call_impl", None)
    return clone
