"""TotalSegmentator v1, v2 and MR: one mask per class."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from nnunetv2_ext.dataset_conversion.converter import DatasetConverter
from nnunetv2_ext.dataset_conversion.layout import Case, FilePattern, Split
from nnunetv2_ext.utilities.files import read_table
from nnunetv2_ext.utilities.validation import check, choice, mapping_of

_PATTERNS = (FilePattern("{case}/ct.nii.gz", "{case}/segmentations/{class}.nii.gz"),)


class _TotalSegmentator(DatasetConverter):
    """TotalSegmentator.

    Expects the folder of the Zenodo archive. meta.csv (separator ``;``, columns ``image_id`` and ``split``) is
    optional; with it, test cases go to imagesTs and validation cases into the one fold that is written. Masks of
    classes that are not in the label order are refused; where masks overlap, the class that comes later in the order
    wins, as in TotalSegmentator's own conversion::

        meta.csv
        s0001/ct.nii.gz           (mri.nii.gz in the MR dataset)
        s0001/segmentations/<class>.nii.gz
    """

    patterns = _PATTERNS

    def cases(self) -> list[Case]:
        """All cases, with the split of meta.csv."""
        splits = self._splits()
        cases = []
        for case in super().cases():
            foreign = sorted(set(case.masks) - set(self.order.labels))
            if foreign and not case.problem:
                case = replace(
                    case,
                    problem=f"Expected the classes of {self.order.name}, but found masks of {', '.join(foreign[:4])}.",
                )
            cases.append(replace(case, split=splits.get(case.identifier, "train")))
        return cases

    def _splits(self) -> dict[str, Split]:
        path = self.root / "meta.csv"
        if not path.is_file():
            return {}
        rows = read_table(path, ("image_id", "split"), separator=";")
        splits: dict[str, Split] = {row["image_id"]: cast(Split, row["split"]) for row in rows if row["image_id"]}
        check(splits, mapping_of(choice("train", "val", "test")), path)
        return splits


class TotalSegmentatorV1(_TotalSegmentator):
    """TotalSegmentator v1: 104 structures in CT."""

    name, title, label_order = "totalsegmentator_v1", "TotalSegmentator_v1", "totalsegmentator_v1"


class TotalSegmentatorV2(_TotalSegmentator):
    """TotalSegmentator v2: 117 structures in CT."""

    name, title, label_order = "totalsegmentator_v2", "TotalSegmentator_v2", "totalsegmentator_v2"


class TotalSegmentatorMR(_TotalSegmentator):
    """TotalSegmentator MRI: 50 structures in MR."""

    name, title, label_order = "totalsegmentator_mr", "TotalSegmentator_MR", "totalsegmentator_mr"
    channel_names = ("MRI",)
    patterns = (FilePattern("{case}/mri.nii.gz", "{case}/segmentations/{class}.nii.gz"),)
