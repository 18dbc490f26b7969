"""Deep supervision for losses that read a label map and know which classes each image annotates."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from nnunetv2_ext.training.loss.label_tree_loss import LabelTreeLoss
from nnunetv2_ext.training.loss.partial_label_loss import PartialLabelLoss
from nnunetv2_ext.training.loss.source_heads_loss import SourceHeadsLoss


def halving_weights(levels: int) -> list[float]:
    """nnU-Net's weights of the levels, highest resolution first: halved per level, 0 for the lowest, summing to 1."""
    weights = [0.5**level for level in range(levels)]
    if levels > 1:
        weights[-1] = 0.0
    return [weight / sum(weights) for weight in weights]


class PartialLabelDeepSupervision(nn.Module):
    """Weighted sum of a `PartialLabelLoss`, `LabelTreeLoss` or `SourceHeadsLoss` over the levels of a decoder.

    A level of weight 0 contributes neither loss nor gradient, yet stays in the graph: its heads then have a gradient of
    zero instead of none, which is what `DistributedDataParallel` needs. (nnU-Net gives that level 1e-6 instead, but
    only on several GPUs; the loss here is not to depend on their number.)

    Args:
        loss: The loss of one level.
        weights: One weight per level, highest resolution first; see `halving_weights`.
    """

    def __init__(self, loss: PartialLabelLoss | LabelTreeLoss | SourceHeadsLoss, weights: Sequence[float]) -> None:
        super().__init__()
        if not any(weights):
            raise ValueError(f"Expected at least one level with a weight other than 0, but got {list(weights)}.")
        self.loss = loss
        self.weights = tuple(weights)

    def forward(
        self,
        logits: Sequence[Float[Tensor, "batch channels ..."]],
        label_maps: Sequence[Int[Tensor, "batch 1 ..."]],
        annotated: Bool[Tensor, "batch classes"],
        classes: Int[Tensor, " channels"] | None = None,
    ) -> Float[Tensor, ""]:
        """Loss of all levels, highest resolution first; see the losses for ``annotated`` and ``classes`` (or sources).

        Raises:
            ValueError: The number of outputs or label maps differs from the number of weights.
        """
        if not len(logits) == len(label_maps) == len(self.weights):
            raise ValueError(
                f"Expected {len(self.weights)} levels, but got {len(logits)} outputs and {len(label_maps)} label maps."
            )
        nothing = torch.zeros_like(annotated)
        levels = zip(self.weights, logits, label_maps, strict=True)
        losses = [
            weight * self.loss(output, label_map, annotated, classes)
            if weight
            else self.loss(output, label_map, nothing, classes)
            for weight, output, label_map in levels
        ]
        return torch.stack(losses).sum()
