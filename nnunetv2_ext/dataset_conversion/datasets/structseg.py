"""StructSeg 2019, task 3."""

from __future__ import annotations

from nnunetv2_ext.dataset_conversion.converter import DatasetConverter
from nnunetv2_ext.dataset_conversion.layout import FilePattern


class StructSegThorax(DatasetConverter):
    """StructSeg 2019 task 3, thoracic organs at risk.

    Expects the folder of the challenge, one numbered folder per patient::

        Thoracic_OAR/1/data.nii.gz
        Thoracic_OAR/1/label.nii.gz
    """

    name = "structseg_thorax"
    title = "StructSeg_Thorax"
    label_order = "structseg_thorax"
    patterns = (
        FilePattern("Thoracic_OAR/{case}/data.nii.gz", "Thoracic_OAR/{case}/label.nii.gz", "train", "structseg_{case}"),
    )
