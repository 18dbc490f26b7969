"""Contours of DICOM radiotherapy structure sets (RTSTRUCT) as label maps.

pydicom reads the file and scikit-image fills the polygons: both are kept well, while the packages made for RTSTRUCT
alone have seen no release for years and bring a second image library along.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nnunetv2_ext.dataset_conversion.findings import BadCaseError
from nnunetv2_ext.images.volumes import Volume
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.extras import require_extra

# A contour may lie this far (in slices) from the middle of a slice before it is taken to belong to another image.
_OFF_SLICE = 0.3


def find_rtstruct(folder: Path) -> Path | None:
    """The structure set below a patient's folder; None where there is none.

    Raises:
        UserError: There are several.
    """
    dicom = _pydicom()
    # One look per series is enough, and image series have hundreds of files.
    first_files = {file.parent: file for file in sorted(folder.rglob("*.dcm"), reverse=True)}
    found = [
        file
        for _, file in sorted(first_files.items())
        if dicom.dcmread(file, stop_before_pixels=True, specific_tags=["Modality"]).get("Modality") == "RTSTRUCT"
    ]
    if len(found) > 1:
        raise UserError(f"Expected one RTSTRUCT below {folder}, but found {', '.join(map(str, found))}.")
    return found[0] if found else None


def read_rtstruct(path: Path, image: Volume, values: Mapping[str, int]) -> Volume:
    """Fills contours on the grid of an image.

    A voxel belongs to a structure if its centre lies inside an odd number of the structure's contours on its slice, so
    that a contour within a contour is a hole. Where structures overlap, the one that is later in ``values`` wins.

    Args:
        path: The RTSTRUCT file.
        image: The image that the contours were drawn on; its third index axis must be the slice axis.
        values: Name of the structure (case does not count) -> integer.

    Raises:
        UserError: The file cannot be read, or contours do not lie on slices of the image.
        BadCaseError: A structure is missing.
    """
    dicom = _pydicom()
    try:
        content = dicom.dcmread(path)
        names = {
            int(roi.ROINumber): re.sub(r"\s+", "_", str(roi.ROIName).strip().lower())
            for roi in content.StructureSetROISequence
        }
        contours = {names[int(roi.ReferencedROINumber)]: roi for roi in content.ROIContourSequence}
    except (dicom.errors.InvalidDicomError, AttributeError, KeyError, EOFError) as error:
        raise UserError(f"Expected a DICOM RTSTRUCT with contours in {path}, but it is damaged ({error}).") from None
    missing = [name for name in values if name not in contours]
    if missing:
        raise BadCaseError(
            "incomplete",
            f"Expected the contours {', '.join(missing)} in {path}, but it has "
            f"{', '.join(sorted(contours)) or 'none'}.",
        )
    label = np.zeros(image.array.shape, dtype=np.uint8)
    for name, value in values.items():
        label[_filled(contours[name], image, path, name)] = value
    return Volume(label, image.grid)


def _filled(roi: Any, image: Volume, path: Path, name: str) -> np.ndarray:
    from skimage.draw import polygon2mask

    inside = np.zeros(image.array.shape, dtype=bool)
    to_index = np.linalg.inv(image.grid.matrix)
    for contour in roi.get("ContourSequence", ()):
        points = np.reshape(np.asarray(contour.ContourData, dtype=float), (-1, 3))
        index = points @ to_index[:3, :3].T + to_index[:3, 3]
        z = round(float(index[:, 2].mean()))
        if np.abs(index[:, 2] - z).max() > _OFF_SLICE or not 0 <= z < len(inside):
            raise UserError(
                f"Expected the contours of {name} in {path} on slices of the image, but one lies at slice "
                f"{index[:, 2].mean():.2f} of {len(inside)}; it belongs to another series."
            )
        inside[z] ^= polygon2mask(inside.shape[1:], index[:, [1, 0]])
    return inside


def _pydicom() -> Any:
    require_extra("dicom", "A dataset with contours in DICOM", "pydicom")
    import pydicom

    return pydicom
