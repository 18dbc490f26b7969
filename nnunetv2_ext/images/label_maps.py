"""The one writer of scans and label maps, in all formats."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Integer, Shaped

from nnunetv2_ext.images.colours import display_colours
from nnunetv2_ext.images.dicom_annotations import read_object
from nnunetv2_ext.images.dicom_seg import write_dicom_seg
from nnunetv2_ext.images.dicom_source import Algorithm, SourceSeries
from nnunetv2_ext.images.files import is_nifti
from nnunetv2_ext.images.geometry import Grid
from nnunetv2_ext.images.itk import read_itk
from nnunetv2_ext.images.nifti import write_nifti
from nnunetv2_ext.images.reading import read_volumes
from nnunetv2_ext.images.rtstruct import write_rtstruct
from nnunetv2_ext.images.seg_nrrd import write_seg_nrrd
from nnunetv2_ext.images.segments import Segment
from nnunetv2_ext.images.volumes import Volume
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.files import atomic_path, write_json

_logger = logging.getLogger(__name__)

#: What ``--output_type`` admits.
OUTPUT_TYPES = ("nii.gz", "nii", "nrrd", "mha", "seg.nrrd")
#: What goes back to where a DICOM series came from, and the ending of its files.
DICOM_TYPES = {"dicom_seg": ".seg.dcm", "dicom_seg_binary": ".binary.seg.dcm", "rtstruct": ".rtstruct.dcm"}


def label_type(highest: int) -> np.dtype[Any]:
    """The smallest unsigned integer type that holds a label: uint8 to 255, uint16 to 65535, else uint32."""
    return np.min_scalar_type(highest) if highest > 255 else np.dtype(np.uint8)


def write_label_map(
    labels: Integer[np.ndarray, "z y x"], names: Mapping[int, str], grid: Grid, target: Path | str
) -> None:
    """Writes a label map in the format that its name ends with; the file appears only when it is complete.

    Args:
        labels: ``(z, y, x)`` in the axis order of the image that was predicted.
        names: Class name of every integer but 0, also of those that do not occur.
        grid: Where the voxels lie.
        target: ``.nii.gz`` and ``.nii`` carry the names in a header extension, ``.seg.nrrd`` as segments; other
            formats have no place for them.

    Raises:
        UserError: The file cannot be written.
    """
    target = Path(target)
    labels = labels.astype(label_type(max(names, default=0)), copy=False)
    _write(labels, names, grid, target)
    if target.suffix.lower() in (".tif", ".tiff") and grid.dimension == 3:
        # TIFF has no place for the spacing across slices; nnU-Net's Tiff3DIO looks for it here.
        write_json({"spacing": list(grid.spacing[::-1])}, target.with_suffix(".json"))


def write_volume(volume: Volume, target: Path | str) -> None:
    """Writes an image or a label map in the format that its name ends with; the file appears only when it is complete.

    Raises:
        UserError: The file cannot be written.
    """
    _write(volume.array, {}, volume.grid, Path(target))


def write_dicom(
    labels: Integer[np.ndarray, "z y x"],
    found: Sequence[Segment],
    source: SourceSeries,
    target: Path | str,
    kind: str,
    algorithm: Algorithm,
) -> None:
    """Writes a label map as an object of the series that it belongs to; the file appears only when it is complete.

    Args:
        labels: ``(z, y, x)`` on the grid of the series.
        found: The classes that occur, see `segments_of`.
        source: The series.
        target: The file.
        kind: One of `DICOM_TYPES`.
        algorithm: What made the label map.

    Raises:
        UserError: The file cannot be written.
    """
    from pydicom.config import disable_value_validation

    # What is taken from the series is not ours to judge, and what pydicom warns of could be of the patient.
    with written(Path(target)) as temporary, disable_value_validation():
        if kind == "rtstruct":
            write_rtstruct(labels, found, source, algorithm, temporary)
        else:
            write_dicom_seg(labels, found, source, algorithm, temporary, binary=kind == "dicom_seg_binary")


@contextmanager
def written(target: Path, check: Callable[[Path], None] | None = None) -> Iterator[Path]:
    """As `atomic_path`, with whatever libraries raise turned into a sentence about the file.

    Raises:
        UserError: The file cannot be written, or is not what it should be.
    """
    try:
        with atomic_path(target, check) as temporary:
            yield temporary
    except UserError:
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise UserError(f"Expected to write {target}, but that failed ({reason}).") from error


def _write(array: Shaped[np.ndarray, "z y x"], names: Mapping[int, str], grid: Grid, target: Path) -> None:
    import SimpleITK

    def check(file: Path) -> None:
        # SimpleITK does not say when a write fails, so that what it wrote is read; nibabel does.
        if is_nifti(target):
            return
        read = read_itk(file)[0]
        # Colours come last; of grey ones, which a bitmap gives three times, the first is enough.
        if not np.array_equal(np.moveaxis(read, 0, -1) if array.ndim == 4 else read[0], array):
            raise ValueError("other voxels than those given are in the file")

    with written(target, check) as temporary:
        if is_nifti(target):
            write_nifti(array, names, grid, temporary)
        elif target.name.endswith(".seg.nrrd"):
            write_seg_nrrd(array, names, grid, temporary)
        else:
            SimpleITK.WriteImage(grid.image(array), str(temporary), useCompression=True)


def labels_json(names: Mapping[int, str]) -> dict[str, Any]:
    """``labels.json``: the ``labels`` of a dataset.json, and the colours that viewers are given (RGB, 0-255)."""
    colours = display_colours(names)
    return {
        "labels": {"background": 0, **{name: value for value, name in names.items()}},
        "colors": {name: list(colours[value]) for value, name in names.items()},
    }


def is_complete(file: Path) -> bool:
    """Whether a label map is there and can be read to its end.

    Files of this package appear only when they are complete; a file of another program, or one that a full disk cut
    short, may not be.
    """
    if not file.is_file() or file.stat().st_size == 0:
        return False
    try:
        if file.suffix == ".dcm":
            # Objects end with their frames or contours.
            content = read_object(file)
            return "PixelData" in content or "RTROIObservationsSequence" in content
        read_volumes(file)
    except UserError as error:
        _logger.info("%s It is predicted again.", error)
        return False
    return True
