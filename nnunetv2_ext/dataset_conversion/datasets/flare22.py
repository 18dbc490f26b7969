"""FLARE22."""

from __future__ import annotations

from nnunetv2_ext.dataset_conversion.converter import DatasetConverter
from nnunetv2_ext.dataset_conversion.layout import FilePattern


class FLARE22(DatasetConverter):
    """FLARE22, the 50 labelled training cases.

    Expects::

        FLARE22Train/images/FLARE22_Tr_0001_0000.nii.gz
        FLARE22Train/labels/FLARE22_Tr_0001.nii.gz
    """

    name = "flare22"
    title = "FLARE22"
    label_order = "flare22"
    patterns = (FilePattern("FLARE22Train/images/{case}_0000.nii.gz", "FLARE22Train/labels/{case}.nii.gz"),)
