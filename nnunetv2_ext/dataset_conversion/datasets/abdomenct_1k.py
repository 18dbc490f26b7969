"""AbdomenCT-1K."""

from __future__ import annotations

from nnunetv2_ext.dataset_conversion.converter import DatasetConverter
from nnunetv2_ext.dataset_conversion.layout import FilePattern


class AbdomenCT1K(DatasetConverter):
    """AbdomenCT-1K.

    Expects the image archives (in one or several folders) and the label archive side by side::

        AbdomenCT-1K-ImagePart1/Case_00001_0000.nii.gz
        Mask/Case_00001.nii.gz
    """

    name = "abdomenct_1k"
    title = "AbdomenCT1K"
    label_order = "abdomenct_1k"
    patterns = (FilePattern("AbdomenCT-1K-Image*/{case}_0000.nii.gz", "Mask/{case}.nii.gz"),)
