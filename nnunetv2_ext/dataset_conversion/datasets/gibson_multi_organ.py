"""Gibson et al.: further labels for images of BTCV and NIH Pancreas-CT."""

from __future__ import annotations

from dataclasses import replace

from nnunetv2_ext.dataset_conversion.converter import DatasetConverter
from nnunetv2_ext.dataset_conversion.layout import Case
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.files import read_table
from nnunetv2_ext.utilities.validation import check, mapping_of, text

_EXTENTS = (("extent_left", "extent_right"), ("extent_ant", "extent_post"), ("extent_inf", "extent_sup"))


class Converter(DatasetConverter):
    """Multi-organ labels of Gibson et al., whose images are cut to where they are annotated."""

    def cases(self) -> list[Case]:
        """Annotated cases with their crop; images that nobody annotated are left out."""
        boxes = self._boxes()
        cases = []
        for case in super().cases():
            box = boxes.get(case.identifier, "Expected its row in cropping.csv, but there is none.")
            if isinstance(box, str):
                cases.append(replace(case, problem=case.problem or box))
            else:
                cases.append(replace(case, crop=box))
        return cases

    def _boxes(self) -> dict[str, tuple[tuple[int, int], ...] | str]:
        """Box of each case, or why its row holds none."""
        path = self.root / "cropping.csv"
        if not path.is_file():
            raise UserError(f"Expected cropping.csv of Zenodo record 1169361 in {self.root}, but it does not exist.")
        extents = [name for pair in _EXTENTS for name in pair]
        boxes: dict[str, tuple[tuple[int, int], ...] | str] = {}
        for row in read_table(path, ("original_id", "publisher", *extents)):
            identifier = f"{row['publisher'].lower()}_{row['original_id'].zfill(4)}"
            try:
                check({name: row[name] for name in extents}, mapping_of(text(r"\d{1,5}", "a voxel index")), path)
            except UserError as error:
                boxes[identifier] = str(error)
                continue
            bounds = [sorted((int(row[first]), int(row[last]))) for first, last in _EXTENTS]
            boxes[identifier] = tuple((low, high + 1) for low, high in bounds)
        return boxes
