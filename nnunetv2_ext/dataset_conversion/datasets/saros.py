"""SAROS: sparsely annotated body regions and body parts."""

from __future__ import annotations

from dataclasses import replace

from nnunetv2_ext.dataset_conversion.converter import DatasetConverter
from nnunetv2_ext.dataset_conversion.layout import Case, FilePattern
from nnunetv2_ext.utilities.files import read_table
from nnunetv2_ext.utilities.validation import check, choice, mapping_of


class _SAROS(DatasetConverter):
    """SAROS, annotated on every fifth axial slice; the slices between are the ignore label.

    Expects the folder that the authors' download script makes. The table ``Segmentation*Info*.csv`` (columns ``id``
    and ``split`` with ``fold-1`` to ``fold-5`` and ``test``) is optional; with it, its five folds are written and test
    cases go to imagesTs::

        Segmentation-Info_09-29-2023.csv
        case_000/image.nii.gz
        case_000/body-regions.nii.gz
        case_000/body-parts.nii.gz
    """

    def cases(self) -> list[Case]:
        """All cases with the authors' folds."""
        splits = self._splits()
        cases = []
        for case in super().cases():
            split = splits.get(case.identifier, "")
            if split == "test":
                case = replace(case, split="test")
            elif split:
                case = replace(case, fold=int(split.removeprefix("fold-")) - 1)
            cases.append(case)
        return cases

    def _splits(self) -> dict[str, str]:
        tables = sorted({*self.root.glob("Segmentation*Info*.csv"), *self.root.parent.glob("Segmentation*Info*.csv")})
        if not tables:
            return {}
        splits = {row["id"]: row["split"] for row in read_table(tables[-1], ("id", "split"))}
        check(splits, mapping_of(choice("test", *(f"fold-{fold}" for fold in range(1, 6)))), tables[-1])
        return splits


class SAROSBodyRegions(_SAROS):
    """SAROS, body regions."""

    name, title, label_order = "saros", "SAROS_BodyRegions", "saros"
    patterns = (FilePattern("{case}/image.nii.gz", "{case}/body-regions.nii.gz"),)


class SAROSBodyParts(_SAROS):
    """SAROS, body parts."""

    name, title, label_order = "saros_body_parts", "SAROS_BodyParts", "saros_body_parts"
    patterns = (FilePattern("{case}/image.nii.gz", "{case}/body-parts.nii.gz"),)
