"""CT-ORG."""

from __future__ import annotations

from dataclasses import replace

from nnunetv2_ext.dataset_conversion.converter import DatasetConverter
from nnunetv2_ext.dataset_conversion.layout import Case, FilePattern

# The authors' split: volumes 0 to 20 are the test set.
_TEST_VOLUMES = 21


class CTORG(DatasetConverter):
    """CT-ORG, from The Cancer Imaging Archive.

    Expects all files in one folder; volumes 0 to 20 are the test set::

        volume-0.nii.gz
        labels-0.nii.gz
    """

    name = "ct_org"
    title = "CT_ORG"
    label_order = "ct_org"
    patterns = (FilePattern("volume-{case}.nii.gz", "labels-{case}.nii.gz", "train", "volume-{case}"),)

    def cases(self) -> list[Case]:
        """All cases with the authors' split."""
        return [
            replace(case, split="test") if int(case.identifier.removeprefix("volume-")) < _TEST_VOLUMES else case
            for case in super().cases()
        ]
