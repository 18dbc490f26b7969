"""KiPA22."""

from __future__ import annotations

from nnunetv2_ext.dataset_conversion.converter import DatasetConverter
from nnunetv2_ext.dataset_conversion.layout import FilePattern


class KiPA22(DatasetConverter):
    """KiPA22, renal structures in CT angiography.

    Expects::

        train/image/70.nii.gz
        train/label/70.nii.gz
        open_test/image/0.nii.gz
    """

    name = "kipa22"
    title = "KiPA22"
    label_order = "kipa22"
    patterns = (
        FilePattern("train/image/{case}.nii.gz", "train/label/{case}.nii.gz", "train", "kipa_{case}"),
        FilePattern("open_test/image/{case}.nii.gz", None, "test", "kipa_{case}"),
    )
