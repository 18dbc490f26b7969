"""LiTS."""

from __future__ import annotations

from nnunetv2_ext.dataset_conversion.converter import DatasetConverter
from nnunetv2_ext.dataset_conversion.layout import FilePattern


class LiTS(DatasetConverter):
    """LiTS, liver and liver tumours.

    Expects the two training archives (and, if wanted, the test archive) side by side::

        Training Batch 1/volume-0.nii
        Training Batch 1/segmentation-0.nii
        Test-Data/test-volume-0.nii
    """

    name = "lits"
    title = "LiTS"
    label_order = "lits"
    patterns = (
        FilePattern("Training*/volume-{case}.nii.gz", "Training*/segmentation-{case}.nii.gz", "train", "volume-{case}"),
        FilePattern("Test*/test-volume-{case}.nii.gz", None, "test", "test-volume-{case}"),
    )
