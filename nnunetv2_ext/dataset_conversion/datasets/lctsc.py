"""LCTSC: DICOM images with contours (RTSTRUCT)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from nnunetv2_ext.dataset_conversion.converter import DatasetConverter
from nnunetv2_ext.dataset_conversion.layout import Case
from nnunetv2_ext.images.rtstruct import find_rtstruct, read_rtstruct
from nnunetv2_ext.utilities.errors import UserError

if TYPE_CHECKING:
    from nnunetv2_ext.images.volumes import Volume


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
        values = {contour: self.order.value(name) for contour, name in self.contours.items()}
        return read_rtstruct(case.label, image, values)
