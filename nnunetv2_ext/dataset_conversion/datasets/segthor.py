"""SegTHOR."""

from __future__ import annotations

from nnunetv2_ext.dataset_conversion.converter import DatasetConverter
from nnunetv2_ext.dataset_conversion.layout import FilePattern


class SegTHOR(DatasetConverter):
    """SegTHOR, thoracic organs at risk.

    Expects::

        train/Patient_01/Patient_01.nii.gz
        train/Patient_01/GT.nii.gz
        test/Patient_41.nii.gz
    """

    name = "segthor"
    title = "SegTHOR"
    label_order = "segthor"
    patterns = (
        FilePattern("train/{case}/{case}.nii.gz", "train/{case}/GT.nii.gz"),
        FilePattern("test/{case}.nii.gz", split="test"),
    )
