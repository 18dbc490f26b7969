"""VerSe20."""

from __future__ import annotations

from nnunetv2_ext.dataset_conversion.converter import DatasetConverter
from nnunetv2_ext.dataset_conversion.layout import FilePattern, Split


def _part(folder: str, split: Split) -> FilePattern:
    return FilePattern(
        f"dataset-*{folder}/rawdata/{{subject}}/{{case}}_ct.nii.gz",
        f"dataset-*{folder}/derivatives/{{subject}}/{{case}}_seg-vert_msk.nii.gz",
        split,
    )


class VerSe20(DatasetConverter):
    """VerSe20, vertebrae, in the subject-based layout of the authors' OSF record.

    Expects the three archives side by side (``dataset-verse20training`` or ``dataset-01training``); the validation
    cases become the validation set of the one fold that is written::

        dataset-01training/rawdata/sub-verse500/sub-verse500_dir-ax_ct.nii.gz
        dataset-01training/derivatives/sub-verse500/sub-verse500_dir-ax_seg-vert_msk.nii.gz
        dataset-02validation/...
        dataset-03test/...
    """

    name = "verse20"
    title = "VerSe20"
    label_order = "verse20"
    patterns = (_part("training", "train"), _part("validation", "val"), _part("test", "test"))
