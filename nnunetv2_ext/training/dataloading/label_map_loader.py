"""Loads label maps and says which classes are annotated, instead of one array per class.

The least that has to reach the device is the image and two bytes per voxel of label map. Stock nnU-Net converts to
one boolean array per region in its workers: 117 bytes per voxel with TotalSegmentator's classes, written, downsampled
for deep supervision, sent through a pipe and copied to the device.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader

from nnunetv2_ext.training.dataloading.annotated_cases import AnnotatedCases


class LabelMapDataLoader(nnUNetDataLoader):
    """nnU-Net's loader for a partially labelled collection.

    A batch has nnU-Net's entries ``data``, ``target`` (label maps, when the transforms convert to no regions) and
    ``keys``, and ``annotated``: Bool (batch, classes).

    Args:
        data: The cases and what they annotate.
        *arguments: As for `nnUNetDataLoader`.
        **options: As for `nnUNetDataLoader`.
    """

    def __init__(self, data: AnnotatedCases, *arguments: Any, **options: Any) -> None:
        super().__init__(data, *arguments, **options)

    def generate_train_batch(self) -> dict[str, Any]:
        """One batch."""
        batch: dict[str, Any] = super().generate_train_batch()
        batch["annotated"] = torch.from_numpy(np.stack([self._data.annotated(case) for case in batch["keys"]]))
        return batch
