"""AbdomenAtlas 1.0 Mini."""

from __future__ import annotations

from dataclasses import replace

from nnunetv2_ext.dataset_conversion.converter import DatasetConverter
from nnunetv2_ext.dataset_conversion.layout import Case, FilePattern


class AbdomenAtlas(DatasetConverter):
    """AbdomenAtlas 1.0 Mini.

    Expects one folder per case with one mask per class. ``combined_labels.nii.gz`` is not read: its integers differ
    between releases, names do not. Where masks overlap, the class that comes later in the label order wins::

        BDMAP_00000001/ct.nii.gz
        BDMAP_00000001/segmentations/{aorta,gall_bladder,kidney_left,kidney_right,liver,pancreas,postcava,spleen,stomach}.nii.gz
    """

    name = "abdomenatlas_1_0"
    title = "AbdomenAtlas1_0"
    label_order = "abdomenatlas_1_0"
    patterns = (FilePattern("{case}/ct.nii.gz", "{case}/segmentations/{class}.nii.gz"),)

    def cases(self) -> list[Case]:
        """All cases; masks are known by their aliases, and masks of later releases are passed over."""
        return [
            replace(
                case,
                masks={name: path for mask, path in case.masks.items() if (name := self.order.find(mask)) is not None},
            )
            for case in super().cases()
        ]
