"""Contours of DICOM radiotherapy structure sets (RTSTRUCT) as masks.

pydicom reads the file and scikit-image fills the polygons: both are kept well, while the packages made for RTSTRUCT
alone have seen no release for years and bring a second image library along.
"""

from __future__ import annotations

from collections.abc import Collection, Set
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnunetv2_ext.images.dicom_annotations import Annotation, read_annotation, read_object, reading, structures
from nnunetv2_ext.images.geometry import Grid
from nnunetv2_ext.utilities.errors import UserError

# A contour may lie this far (in slices) from the middle of a slice before it is taken to belong to another image.
_OFF_SLICE = 0.3
# Contours of other kinds are points and lines. Files without the kind are old; they hold these.
_AREAS = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR", "")


class StructureSet:
    """A structure set with its contours.

    Args:
        file: The RTSTRUCT file.

    Raises:
        UserError: It cannot be read.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        content = read_object(file)
        with reading(file):
            self._structures = structures(content)

    @property
    def names(self) -> Set[str]:
        """Plain names of the structures that somebody drew."""
        return self._structures.keys()

    def mask(self, names: Collection[str], grid: Grid) -> npt.NDArray[np.bool_]:
        """The union of some structures.

        A voxel belongs to a structure if its centre lies inside an odd number of the structure's contours on its slice,
        so that a contour within a contour is a hole.

        Args:
            names: Plain names; those that are not there are nothing.
            grid: Of the image that the contours were drawn on; its third index axis must be the slice axis.

        Raises:
            UserError: Contours do not lie on slices of the image, or are damaged.
        """
        mask = np.zeros(grid.shape, dtype=bool)
        for name in names:
            for contours in self._structures.get(name, ()):
                mask |= self._filled(contours, grid, name)
        return mask

    def _filled(self, contours: Any, grid: Grid, name: str) -> npt.NDArray[np.bool_]:
        from skimage.draw import polygon

        inside = np.zeros(grid.shape, dtype=bool)
        to_index = np.linalg.inv(grid.matrix)
        for contour in contours:
            with reading(self.file):
                if str(contour.get("ContourGeometricType") or "").upper() not in _AREAS:
                    continue
                points = np.reshape(np.asarray(contour.ContourData, dtype=float), (-1, 3))
                index = points @ to_index[:3, :3].T + to_index[:3, 3]
                z = round(float(index[:, 2].mean()))
            if np.abs(index[:, 2] - z).max() > _OFF_SLICE or not 0 <= z < len(inside):
                raise UserError(
                    f"Expected the contours of {name} in {self.file} on slices of the image, but one lies at slice "
                    f"{index[:, 2].mean():.2f} of {len(inside)}; it belongs to another series."
                )
            rows, columns = polygon(index[:, 1], index[:, 0], inside.shape[1:])
            inside[z, rows, columns] ^= True
        return inside


def find_rtstruct(folder: Path) -> Path | None:
    """The structure set below a patient's folder; None where there is none.

    Of several, it is the one that refers to the image series with the most slices, which is the one that is read.

    Raises:
        UserError: Several refer to that series, or none of several, or a file is damaged.
    """
    series: dict[Path, list[Path]] = {}
    for file in sorted(folder.rglob("*.dcm")):
        series.setdefault(file.parent, []).append(file)
    found, images = [], ""
    # One look per series is enough, and image series have hundreds of files; the largest comes last.
    for files in sorted(series.values(), key=len):
        header = read_object(files[0], stop_before_pixels=True, specific_tags=["Modality", "SeriesInstanceUID"])
        if header.get("Modality") == "RTSTRUCT":
            found += files
        else:
            images = str(header.get("SeriesInstanceUID"))
    annotations: list[Annotation] = [read_annotation(file) for file in found] if len(found) > 1 else []
    fitting = [each.file for each in annotations if images in each.series] if annotations else found
    if found and len(fitting) != 1:
        raise UserError(
            f"Expected one RTSTRUCT of the image series below {folder}, but found "
            f"{len(fitting) or 'none'} among {', '.join(map(str, found))}; remove the others."
        )
    return fitting[0] if fitting else None
