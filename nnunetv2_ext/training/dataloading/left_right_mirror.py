"""Mirroring that lets left and right classes change places."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from numpy.typing import ArrayLike
from torch import Tensor


class LeftRightMirrorTransform(MirrorTransform):
    """nnU-Net's mirroring; where left and right are exchanged, label values are, too.

    Args:
        allowed_axes: Axes that are mirrored, each with a probability of one half; 0 is the first axis of space.
        left_right_axis: The one that runs from left to right.
        mirrored_values: Label value -> label value, see `nnunetv2_ext.labels.left_right.mirrored_values`.
    """

    def __init__(self, allowed_axes: Sequence[int], left_right_axis: int, mirrored_values: ArrayLike):
        super().__init__(tuple(allowed_axes))
        self.left_right_axis = left_right_axis
        # nnU-Net marks voxels outside the image with -1, which stays.
        self._table = torch.cat((torch.tensor([-1]), torch.as_tensor(mirrored_values)))

    def _apply_to_segmentation(self, segmentation: Tensor, **params: Any) -> Tensor:
        mirrored: Tensor = super()._apply_to_segmentation(segmentation, **params)
        if self.left_right_axis not in params["axes"]:
            return mirrored
        return self._table.to(mirrored.dtype)[mirrored.long() + 1]
