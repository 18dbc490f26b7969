"""LCTSC: DICOM images with contours (RTSTRUCT)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from nnunetv2_ext.dataset_conversion.converter import DatasetConverter
from nnunetv2_ext.dataset_conversion.findings import BadCaseError
from nnunetv2_ext.dataset_conversion.layout import Case
from nnunetv2_ext.images.rtstruct import StructureSet, find_rtstruct
from nnunetv2_ext.images.volumes import Volume
from nnunetv2_ext.utilities.errors import UserError


class Converter(DatasetConverter):
    """LCTSC, whose annotation is contours."""

    contours: ClassVar[Mapping[str, str]] = {
        "spinalcord": "spinal_cord",
        "lung_r": "lung_right",
        "lung_l": "lung_left",
        "heart": "heart",
        "esophagus": "esophagus",
    }

    def cases(self) -> list[Case]:
        """All patients with their contours."""
        return [self._with_contours(case) for case in super().cases() if case.images[0].is_dir()]

    def _with_contours(self, case: Case) -> Case:
        try:
            structures: Path | None = find_rtstruct(case.images[0])
        except UserError as error:
            return replace(case, problem=str(error))
        problem = "" if structures else f"Expected an RTSTRUCT below {case.images[0]}, but there is none."
        return replace(case, label=structures, problem=problem)

    def read_label(self, case: Case, image: Volume) -> Volume:
        """Fills the contours on the image's grid."""
        assert case.label is not None
        structures = StructureSet(case.label)
        missing = [contour for contour in self.contours if contour not in structures.names]
        if missing:
            raise BadCaseError(
                "incomplete",
                f"Expected the contours {', '.join(missing)} in {case.label}, but it has "
                f"{', '.join(sorted(structures.names)) or 'none'}.",
            )
        label = np.zeros(image.array.shape, dtype=np.uint8)
        # Where structures overlap, the later one wins.
        for contour, name in self.contours.items():
            label[structures.mask([contour], image.grid)] = self.order.value(name)
        return Volume(label, image.grid)
