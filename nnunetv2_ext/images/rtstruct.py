"""Contours of DICOM radiotherapy structure sets (RTSTRUCT) as label maps.

pydicom reads the file and scikit-image fills the polygons: both are kept well, while the packages made for RTSTRUCT
alone have seen no release for years and bring a second image library along.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from nnunetv2_ext.images.volumes import Volume
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.extras import require_extra

# A contour may lie this far (in slices) from the middle of a slice before it is taken to belong to another image.
_OFF_SLICE = 0.3


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
        header = _read(files[0], stop_before_pixels=True, specific_tags=["Modality", "SeriesInstanceUID"])
        if header.get("Modality") == "RTSTRUCT":
            found += files
        else:
            images = str(header.get("SeriesInstanceUID"))
    fitting = [file for file in found if images in _referenced_series(file)] if len(found) > 1 else found
    if found and len(fitting) != 1:
        raise UserError(
            f"Expected one RTSTRUCT of the image series below {folder}, but found "
            f"{len(fitting) or 'none'} among {', '.join(map(str, found))}; remove the others."
        )
    return fitting[0] if fitting else None


def _referenced_series(file: Path) -> set[str]:
    return {
        str(series.SeriesInstanceUID)
        for frame in _read(file).get("ReferencedFrameOfReferenceSequence", ())
        for study in frame.get("RTReferencedStudySequence", ())
        for series in study.get("RTReferencedSeriesSequence", ())
    }


def read_rtstruct(path: Path, image: Volume, values: Mapping[str, int]) -> Volume:
    """Fills contours on the grid of an image.

    A voxel belongs to a structure if its centre lies inside an odd number of the structure's contours on its slice, so
    that a contour within a contour is a hole. Where structures overlap, the one that is later in ``values`` wins.

    Args:
        path: The RTSTRUCT file.
        image: The image that the contours were drawn on; its third index axis must be the slice axis.
        values: Name of the structure (case does not count) -> integer.

    Raises:
        UserError: The file cannot be read, a structure is missing, or contours do not lie on slices of the image.
    """
    content = _read(path)
    with _reading(path):
        names = {
            int(roi.ROINumber): re.sub(r"\s+", "_", str(roi.ROIName).strip().lower())
            for roi in content.StructureSetROISequence
        }
        contours = {names[int(roi.ReferencedROINumber)]: roi for roi in content.ROIContourSequence}
    missing = [name for name in values if name not in contours]
    if missing:
        raise UserError(
            f"Expected the contours {', '.join(missing)} in {path}, but it has {', '.join(sorted(contours)) or 'none'}."
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
        with _reading(path):
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


def _read(path: Path, **arguments: Any) -> Any:
    require_extra("dicom", "A dataset with contours in DICOM", "pydicom")
    import pydicom

    with _reading(path):
        return pydicom.dcmread(path, **arguments)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """What pydicom and damaged contents raise is of many kinds."""
    try:
        yield
    except Exception as error:
        raise UserError(f"Expected DICOM with contours in {path}, but it is damaged ({error}); replace it.") from None
