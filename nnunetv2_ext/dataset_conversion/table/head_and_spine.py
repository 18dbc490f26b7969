"""Vertebrae and structures of the head."""

from __future__ import annotations

from nnunetv2_ext.dataset_conversion.entry import DatasetEntry
from nnunetv2_ext.dataset_conversion.layout import FilePattern as Files
from nnunetv2_ext.dataset_conversion.layout import Split

_VERSE_PARTS: dict[str, Split] = {"training": "train", "validation": "val", "test": "test"}

HEAD_AND_SPINE = (
    DatasetEntry(
        "verse20",
        "VerSe20",
        "VerSe20: vertebrae in CT, in the subject-based layout of the authors' OSF record.",
        tuple(
            Files(
                f"dataset-{mark}{part}/rawdata/{{subject}}/{{case}}_ct.nii.gz",
                f"dataset-{mark}{part}/derivatives/{{subject}}/{{case}}_seg-vert_msk.nii.gz",
                split,
            )
            for part, split in _VERSE_PARTS.items()
            for mark in ("verse20", "0*")
        ),
        "The three archives lie side by side, also beside those of VerSe19. The integers 26 and 27 do not occur.",
    ),
)
