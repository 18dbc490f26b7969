"""WORD."""

from __future__ import annotations

from nnunetv2_ext.dataset_conversion.converter import DatasetConverter
from nnunetv2_ext.dataset_conversion.layout import FilePattern


class WORD(DatasetConverter):
    """WORD, abdominal organs of patients before radiotherapy.

    Expects the folder of the archive; the validation cases become the validation set of the one fold that is written::

        imagesTr/word_0002.nii.gz    labelsTr/word_0002.nii.gz
        imagesVal/word_0001.nii.gz   labelsVal/word_0001.nii.gz
        imagesTs/word_0014.nii.gz    (labelsTs/word_0014.nii.gz in later releases)
    """

    name = "word"
    title = "WORD"
    label_order = "word"
    patterns = (
        FilePattern("imagesTr/{case}.nii.gz", "labelsTr/{case}.nii.gz"),
        FilePattern("imagesVal/{case}.nii.gz", "labelsVal/{case}.nii.gz", "val"),
        FilePattern("imagesTs/{case}.nii.gz", "labelsTs/{case}.nii.gz", "test"),
    )
