"""Loads label maps and says which classes are annotated, instead of one array per class.

The least that has to reach the device is the image and one byte per voxel of label map (two where a collection has more
than 256 label values). Stock nnU-Net converts to one boolean array per region in its workers: 117 bytes per voxel with
TotalSegmentator's classes, written, downsampled for deep supervision, sent through a pipe and copied to the device.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from torch import Tensor

from nnunetv2_ext.training.dataloading.annotated_cases import AnnotatedCases


class LabelMapDataLoader(nnUNetDataLoader):
    """nnU-Net's loader for a partially labelled collection.

    A batch has nnU-Net's entries ``data``, ``target`` (label maps, when the transforms convert to no regions) and
    ``keys``, and ``annotated``: Bool (batch, classes). Label maps that have gone through transforms are uint8 where
    the label values of the collection, the ignore label included, fit; otherwise, and without transforms (where -1
    stands for voxels outside the image), they are int16 as nnU-Net loads them.

    Args:
        data: The cases and what they annotate.
        batch_size: Samples per batch.
        patch_size: Size of the patch that is cut out, (z, y, x) or (y, x).
        final_patch_size: Size of the patch after the transforms.
        label_manager: nnU-Net's label manager of the collection.
        **options: As for `nnUNetDataLoader`.
    """

    def __init__(
        self,
        data: AnnotatedCases,
        batch_size: int,
        patch_size: Any,
        final_patch_size: Any,
        label_manager: Any,
        **options: Any,
    ) -> None:
        super().__init__(data, batch_size, patch_size, final_patch_size, label_manager, **options)
        self._highest_value: int = max([*label_manager.all_labels, label_manager.ignore_label or 0])

    def generate_train_batch(self) -> dict[str, Any]:
        """One batch.

        Raises:
            ValueError: A label map has values that the collection does not know.
        """
        batch: dict[str, Any] = super().generate_train_batch()
        batch["annotated"] = torch.from_numpy(np.stack([self._data.annotated(case) for case in batch["keys"]]))
        # nnU-Net's transforms turn -1 into background.
        if self.transforms is not None and self._highest_value <= torch.iinfo(torch.uint8).max:
            batch["target"] = self._as_bytes(batch["target"], batch["keys"])
        return batch

    def _as_bytes(self, target: Tensor | list[Tensor], cases: Any) -> Tensor | list[Tensor]:
        levels = target if isinstance(target, list) else [target]
        for level in levels:
            # A value that does not fit would silently become another class.
            low, high = (int(value) for value in level.aminmax())
            if low < 0 or high > self._highest_value:
                raise ValueError(
                    f"Expected label values from 0 to {self._highest_value} in the cases {', '.join(cases)}, but found "
                    f"{low if low < 0 else high}; mend the label map or the dataset.json and preprocess again."
                )
        levels = [level.to(torch.uint8) for level in levels]
        return levels if isinstance(target, list) else levels[0]
