"""The one reader of scans and label maps: a file, or the slices of a series, as checked voxels on a grid."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32, Shaped

from nnunetv2_ext.images.dicom import find_series, read_series
from nnunetv2_ext.images.files import JPEG, PICTURES, is_nifti, opened
from nnunetv2_ext.images.geometry import Grid, listed
from nnunetv2_ext.images.itk import read_itk, split, tiff_spacing
from nnunetv2_ext.images.nifti import SIZE_OF_NIFTI_1, read_nifti
from nnunetv2_ext.images.volumes import Volume
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.executors import in_a_worker

if TYPE_CHECKING:
    import SimpleITK

_logger = logging.getLogger(__name__)

#: nnU-Net's spacing across the plane of a 2D image: this many times the largest spacing within it.
_SPACING_ACROSS_2D = 999

# How far apart voxels can be in medical images: a nanometre to a decimetre.
_LEAST_MM, _MOST_MM = 1e-6, 100.0


@dataclass(frozen=True)
class Case:
    """One scan to predict.

    Attributes:
        identifier: The name that its outputs carry.
        files: One image per channel; or the slices of one DICOM series.
        dicom: Whether ``files`` are the slices of a series.
    """

    identifier: str
    files: tuple[Path, ...]
    dicom: bool = False


@dataclass
class Scan:
    """A case in memory.

    Attributes:
        identifier: Name of the case.
        channels: Intensities ``(channels, z, y, x)``, in the axis order of the file.
        spacing: mm along (z, y, x), as nnU-Net's reader gives it.
        grid: Where the voxels lie.
    """

    identifier: str
    channels: Float32[np.ndarray, "channels z y x"]
    spacing: tuple[float, float, float]
    grid: Grid


def read_volumes(path: Path | str, *, finite: bool = True) -> list[Volume]:
    """Reads an image file of any format: one volume per channel.

    Where nnU-Net cannot read a header (axes that are not at right angles, NIfTI-2), the grid is one that it can.

    Args:
        path: The file.
        finite: Whether to refuse voxels that are NaN or infinite.

    Raises:
        UserError: The file is missing, truncated or damaged, or no image that can be worked with.
    """
    path = Path(path)
    array, grid, mended = _read_file(path)
    if finite:
        _refuse_non_finite(array, str(path))
    file: Path | None = path
    if grid.nifti_header is not None and (mended or grid.nifti_header["sizeof_hdr"] != SIZE_OF_NIFTI_1):
        grid, file = replace(grid, nifti_header=None), None
    return [Volume(channel, grid, file if len(array) == 1 else None, mended) for channel in array]


def read_volume(path: Path | str) -> Volume:
    """Reads a file with one channel, or a label map.

    Raises:
        UserError: As `read_volumes`, or the file has several channels.
    """
    return _only(read_volumes(path), path)


def read_dicom_series(folder: Path) -> Volume:
    """Reads the image series with the most slices anywhere below a folder.

    Raises:
        UserError: There is no image series, it is damaged, or its slices are not equally spaced.
    """
    best = max((series.files for series in find_series(folder)), key=len, default=())
    if len(best) < 2:
        raise UserError(f"Expected a DICOM image series of several slices below {folder}, but found none.")
    return read_slices(best)


def read_slices(files: Sequence[Path]) -> Volume:
    """Reads the slices of one DICOM series, in their order.

    Raises:
        UserError: They are damaged, not equally spaced, or in colours.
    """
    array, grid = _read_slices(files)
    return _only([Volume(channel, grid) for channel in array], files[0].parent)


def read_scan(case: Case, channels: int, *, admit_2d: bool) -> Scan:
    """Reads a case and checks it.

    Values and axis order are those of nnU-Net's ``SimpleITKIO`` and ``NibabelIO`` (which agree).

    Args:
        case: What to read.
        channels: How many channels the model expects.
        admit_2d: Whether images of two dimensions make sense to the model.

    Raises:
        UserError: A file cannot be read or is damaged, the number of channels or dimensions is wrong, channels lie on
            different grids, or voxels are NaN or infinite.
    """
    if case.dicom:
        array, grid = _read_slices(case.files)
    else:
        parts = [_read_file(file) for file in case.files]
        grid = parts[0][1]
        for file, (_, other, mended) in zip(case.files, parts, strict=True):
            if difference := grid.difference(other, positions=False):
                raise UserError(
                    f"Expected the channels of a case on one grid, but {case.files[0].name} and {file.name} have "
                    f"{difference}."
                )
            # As nnU-Net, which only warns of these.
            if difference := grid.difference(other):
                _logger.warning("%s and %s have %s; check that they overlay.", case.files[0], file, difference)
            if mended:
                _logger.info("%s: %s; they are copied to the result as they are.", file, mended)
        array = np.concatenate([part[0] for part in parts])
    scan = _scan(case.identifier, array, grid)
    check_scan(scan, channels, admit_2d=admit_2d)
    return scan


def scan_of_image(image: SimpleITK.Image, identifier: str = "image") -> Scan:
    """Takes a SimpleITK image of two or three dimensions (with several components: one channel each)."""
    array, grid = split(image)
    return _scan(identifier, array, grid)


def scan_of_array(array: np.ndarray, spacing: Sequence[float], identifier: str = "array") -> Scan:
    """Takes an array ``(z, y, x)`` or ``(channels, z, y, x)`` with its spacing along (z, y, x) in mm.

    Raises:
        UserError: The array has neither three nor four dimensions, or there are not three positive spacings.
    """
    if array.ndim not in (3, 4) or len(spacing) != 3 or min(spacing) <= 0:
        raise UserError(
            "Expected an array (z, y, x) or (channels, z, y, x) with three positive spacings in mm, but got shape "
            f"{array.shape} and spacing {tuple(spacing)}."
        )
    array = array[None] if array.ndim == 3 else array
    grid = Grid(
        tuple(array.shape[:0:-1]),
        tuple(float(value) for value in spacing[::-1]),
        (0.0, 0.0, 0.0),
        (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
        placed=False,
    )
    return _scan(identifier, array, grid)


def check_scan(scan: Scan, channels: int, *, admit_2d: bool) -> None:
    """Refuses what a network would silently turn into nonsense.

    Raises:
        UserError: See `read_scan`.
    """
    found = scan.channels.shape[0]
    if found != channels:
        raise UserError(
            f"Expected {_count(channels, 'channel')} per case, but {scan.identifier} has {found}; a file of four axes "
            "is to be split into single volumes."
        )
    if scan.grid.dimension == 2 and not admit_2d:
        raise UserError(f"Expected a 3D image for this 3D model, but {scan.identifier} is 2D.")
    if 0 in scan.channels.shape:
        raise UserError(f"Expected an image with voxels, but {scan.identifier} has shape {scan.channels.shape[1:]}.")
    _refuse_non_finite(scan.channels, scan.identifier)


def _only(volumes: list[Volume], path: Path | str) -> Volume:
    # ITK gives the grey values of a bitmap as red, green and blue.
    grey = str(path).lower().endswith(".bmp") and all(np.array_equal(one.array, volumes[0].array) for one in volumes)
    if len(volumes) != 1 and not grey:
        raise UserError(f"Expected one volume in {path}, but it holds {len(volumes)} channels.")
    return volumes[0]


def _scan(identifier: str, array: np.ndarray, grid: Grid) -> Scan:
    spacing = [abs(value) for value in grid.spacing[::-1]]
    if len(spacing) == 2:
        spacing = [max(spacing) * _SPACING_ACROSS_2D, *spacing]
    # float64 beyond float32 becomes infinite here and is refused by name afterwards.
    with np.errstate(over="ignore"):
        channels = array.astype(np.float32, copy=False)
    return Scan(identifier, channels, (spacing[0], spacing[1], spacing[2]), grid)


def _read_file(file: Path) -> tuple[np.ndarray, Grid, str]:
    """One file as ``(channels, z, y, x)``, its grid, and what had to be mended about that."""
    with opened(file):
        array, grid, mended = read_nifti(file) if is_nifti(file) else (*read_itk(file), "")
        states_mm = not file.name.lower().endswith((*PICTURES, *JPEG))
        if not states_mm:
            # Pictures that state a resolution mean one in print; nnU-Net takes 1, too.
            grid = replace(grid, spacing=tiff_spacing(file) if grid.dimension == 3 else (1.0, 1.0), placed=False)
        return _checked(array, grid, file, states_mm=states_mm), grid, mended


def _read_slices(files: Sequence[Path]) -> tuple[np.ndarray, Grid]:
    with opened(folder := files[0].parent, folder=True):
        array, grid = split(in_a_worker(read_series, files, folder))
        return _checked(array, grid, folder, states_mm=True), grid


def _checked(array: np.ndarray, grid: Grid, file: Path, *, states_mm: bool) -> np.ndarray:
    """The voxels in a type that NIfTI and SimpleITK know, if they and their grid can be worked with."""
    geometry = (*grid.spacing, *grid.origin, *grid.direction)
    # An axis of one voxel, which 2D images have for nnU-Net, has any spacing: 999.
    spacings = [mm for mm, size in zip(grid.spacing, grid.size, strict=True) if size > 1]
    if not np.isfinite(geometry).all() or (states_mm and not all(_LEAST_MM <= mm <= _MOST_MM for mm in spacings)):
        raise UserError(
            f"Expected a spacing between a nanometre and {_MOST_MM:g} mm in {file}, but its header says "
            f"{listed(grid.spacing)} mm; correct it."
        )
    kind = array.dtype.kind
    if kind == "c":
        raise UserError(f"Expected real numbers in {file}, but its voxels are complex; store their magnitude.")
    if kind == "b":
        return array.astype(np.uint8)
    if kind == "f":
        # SimpleITK does not know those of 96 and 128 bits.
        return array.astype(np.float64 if array.dtype.itemsize > 8 else array.dtype.newbyteorder("="), copy=False)
    if array.dtype.itemsize < 8:
        return array.astype(array.dtype.newbyteorder("="), copy=False)
    lowest, highest = int(array.min()), int(array.max())
    if lowest < np.iinfo(np.int32).min or highest > np.iinfo(np.int32).max:
        raise UserError(
            f"Expected integers of 32 bits in {file}, but its voxels are {lowest} to {highest}; they may not be an "
            "image."
        )
    return array.astype(np.int32)


def _refuse_non_finite(array: Shaped[np.ndarray, ...], name: str) -> None:
    if array.dtype.kind != "f":
        return
    with np.errstate(over="ignore"):
        values: np.ndarray[Any, Any] = array.astype(np.float32, copy=False)
    # The sum is finite exactly when all voxels are, short of an overflow that the second look settles.
    if not np.isfinite(values.sum(dtype=np.float64)):
        bad = int(values.size - np.isfinite(values).sum())
        if bad:
            raise UserError(
                f"Expected finite intensities, but {name} has {_count(bad, 'voxel')} that are NaN or infinite; replace "
                "them (air is -1000 HU in CT)."
            )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
