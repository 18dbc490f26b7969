"""KiTS19, KiTS21 and KiTS23: kidneys and their tumours."""

from __future__ import annotations

from nnunetv2_ext.dataset_conversion.converter import DatasetConverter
from nnunetv2_ext.dataset_conversion.layout import Case, FilePattern


class KiTS19(DatasetConverter):
    """KiTS19.

    Expects the ``data`` folder of the challenge's repository after its download script ran. Cases 210 to 299 are the
    test set and have no segmentation; of the others each needs one::

        data/case_00000/imaging.nii.gz
        data/case_00000/segmentation.nii.gz
        data/case_00210/imaging.nii.gz
    """

    name = "kits19"
    title = "KiTS19"
    label_order = "kits19"
    patterns = (FilePattern("data/{case}/imaging.nii.gz", "data/{case}/segmentation.nii.gz"),)

    def cases(self) -> list[Case]:
        """Training cases, and the test images."""
        return [
            Case(case.identifier, case.images, split="test")
            if case.images and case.label is None and case.identifier >= "case_00210"
            else case
            for case in super().cases()
        ]


class KiTS21(DatasetConverter):
    """KiTS21, with the majority vote of its annotators.

    Expects the ``data`` folder of the challenge's repository after its download script ran::

        data/case_00000/imaging.nii.gz
        data/case_00000/aggregated_MAJ_seg.nii.gz
    """

    name = "kits21"
    title = "KiTS21"
    label_order = "kits21"
    patterns = (FilePattern("data/{case}/imaging.nii.gz", "data/{case}/aggregated_MAJ_seg.nii.gz"),)


class KiTS23(DatasetConverter):
    """KiTS23.

    Expects the ``dataset`` folder of the challenge's repository after its download script ran::

        dataset/case_00000/imaging.nii.gz
        dataset/case_00000/segmentation.nii.gz
    """

    name = "kits23"
    title = "KiTS23"
    label_order = "kits23"
    patterns = (FilePattern("dataset/{case}/imaging.nii.gz", "dataset/{case}/segmentation.nii.gz"),)
