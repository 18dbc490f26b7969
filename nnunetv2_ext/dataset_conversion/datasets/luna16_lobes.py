"""Lobes in LUNA16 images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from nnunetv2_ext.dataset_conversion.converter import DatasetConverter
from nnunetv2_ext.dataset_conversion.layout import Case, FilePattern, annotated_only


class LUNA16Lobes(DatasetConverter):
    """Lung lobes (Tang et al. 2019) for images of LUNA16.

    Expects the annotations in ``annotations`` and the images either in ``images`` or in LUNA16's ``subset0`` to
    ``subset9``; images without an annotation are left out::

        annotations/<series>_LobeSegmentation.nrrd
        images/<series>.mhd (with .raw)   or   subset0/<series>.mhd (with .raw)

    The label maps follow the Chest Imaging Platform: 4 to 8 are the lobes. 1 is lung outside any lobe and becomes
    background; 512 is airway and becomes background; 516 to 520 are airways inside lobes 4 to 8 and become these lobes.
    """

    name = "luna16_lobes"
    title = "LUNA16_Lobes"
    label_order = "luna16_lobes"
    rewrite_values: ClassVar[Mapping[int, int]] = {1: 0, 512: 0, **{512 + lobe: lobe for lobe in range(4, 9)}}
    patterns = (
        FilePattern("images/{case}.mhd", "annotations/{case}_LobeSegmentation.nrrd"),
        FilePattern("subset*/{case}.mhd", "annotations/{case}_LobeSegmentation.nrrd"),
    )

    def cases(self) -> list[Case]:
        """Annotated images, and annotations whose image is nowhere."""
        return annotated_only(super().cases())
