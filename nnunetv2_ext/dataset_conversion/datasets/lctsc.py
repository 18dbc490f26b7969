"""LCTSC: DICOM images with contours (RTSTRUCT)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from nnunetv2_ext.dataset_conversion.converter import DatasetConverter
from nnunetv2_ext.dataset_conversion.layout import Case, FilePattern
from nnunetv2_ext.dataset_conversion.rtstruct import find_rtstruct, read_rtstruct

if TYPE_CHECKING:
    from nnunetv2_ext.images.volumes import Volume


class LCTSC(DatasetConverter):
    """LCTSC, Lung CT Segmentation Challenge 2017, from The Cancer Imaging Archive (DICOM and RTSTRUCT).

    Needs ``nnunetv2-ext[dicom]``. Expects the folder of the NBIA data retriever. Each patient has one CT series and one
    RTSTRUCT with the contours ``SpinalCord``, ``Lung_R``, ``Lung_L``, ``Heart`` and ``Esophagus``; where contours
    overlap, the later of these wins. Patients with ``Test`` in their name are the test set::

        LCTSC/LCTSC-Train-S1-001/<study>/<CT series>/*.dcm
        LCTSC/LCTSC-Train-S1-001/<study>/<RTSTRUCT series>/*.dcm
    """

    name = "lctsc"
    title = "LCTSC"
    label_order = "lctsc"
    patterns = (FilePattern("LCTSC/{case}", identifier="{case}"),)
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
        structures: Path | None = find_rtstruct(case.images[0])
        return replace(
            case,
            label=structures,
            split="test" if "test" in case.identifier.lower() else "train",
            problem="" if structures else f"Expected an RTSTRUCT below {case.images[0]}, but there is none.",
        )

    def read_label(self, case: Case, image: Volume) -> Volume:
        """Fills the contours on the image's grid."""
        assert case.label is not None
        values = {contour: self.order.value(name) for contour, name in self.contours.items()}
        return read_rtstruct(case.label, image, values)
