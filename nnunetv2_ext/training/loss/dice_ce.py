"""MONAI's Dice and cross-entropy as its CT bundles use it, for label maps with or without an ignore label."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from nnunetv2_ext.training.loss.precision import at_least_float32, outside_autocast


class DiceCrossEntropy(nn.Module):
    """``monai.losses.DiceCELoss`` with softmax, background included.

    Args:
        ignore_label: Label value of voxels that count nowhere; MONAI's loss knows none.

    Needs the extra ``monai``.
    """

    def __init__(self, ignore_label: int | None = None) -> None:
        super().__init__()
        from monai.losses import DiceCELoss

        self.ignore_label = ignore_label
        self.loss = DiceCELoss(to_onehot_y=True, softmax=True)

    @outside_autocast
    def forward(
        self, logits: Float[Tensor, "batch classes *spatial"], label_map: Int[Tensor, "batch 1 *spatial"]
    ) -> Float[Tensor, ""]:
        """Loss of a batch; images in which every voxel is ignored are left out."""
        logits = at_least_float32(logits)
        if self.ignore_label is None:
            result: Tensor = self.loss(logits, label_map)
            return result
        losses = []
        for image, labels in zip(logits.flatten(2), label_map.flatten(2), strict=True):
            counts = labels[0] != self.ignore_label
            if counts.any():
                losses.append(self.loss(image[None, :, counts], labels[None, :, counts]))
        return torch.stack(losses).mean() if losses else logits.sum() * 0
