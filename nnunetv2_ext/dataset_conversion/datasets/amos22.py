"""AMOS22: abdominal organs in CT and MR."""

from __future__ import annotations

from nnunetv2_ext.dataset_conversion.converter import DatasetConverter
from nnunetv2_ext.dataset_conversion.layout import Case, FilePattern

# Case numbers up to here are CT, larger ones MR.
_LAST_CT = 500


class _AMOS22(DatasetConverter):
    """AMOS22 (Zenodo 7262581).

    Expects the contents of amos22.zip; the validation cases become the validation set of the one fold that is written.
    Numbers up to 500 are CT, larger ones MR::

        imagesTr/amos_0001.nii.gz   labelsTr/amos_0001.nii.gz
        imagesVa/amos_0008.nii.gz   labelsVa/amos_0008.nii.gz
        imagesTs/amos_0002.nii.gz
    """

    label_order = "amos22"
    patterns = (
        FilePattern("imagesTr/amos_{case}.nii.gz", "labelsTr/amos_{case}.nii.gz", "train", "amos_{case}"),
        FilePattern("imagesVa/amos_{case}.nii.gz", "labelsVa/amos_{case}.nii.gz", "val", "amos_{case}"),
        FilePattern("imagesTs/amos_{case}.nii.gz", None, "test", "amos_{case}"),
    )
    is_ct: bool

    def cases(self) -> list[Case]:
        """The cases of this modality."""
        return [
            case for case in super().cases() if (int(case.identifier.removeprefix("amos_")) <= _LAST_CT) == self.is_ct
        ]


class AMOS22CT(_AMOS22):
    """AMOS22, its CT cases."""

    name, title = "amos22_ct", "AMOS22_CT"
    is_ct = True


class AMOS22MR(_AMOS22):
    """AMOS22, its MR cases."""

    name, title = "amos22_mr", "AMOS22_MR"
    channel_names = ("MRI",)
    is_ct = False
