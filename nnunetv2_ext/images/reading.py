"""Reading a case: the voxels as nnU-Net's preprocessor wants them, and the grid that results are written back to."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32, Shaped

from nnunetv2_ext.images.files import is_nifti, read_image, read_nifti
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.files import read_json

if TYPE_CHECKING:
    import nibabel
    import SimpleITK

_logger = logging.getLogger(__name__)

#: nnU-Net's spacing across the plane of a 2D image: this many times the largest spacing within it.
_SPACING_ACROSS_2D = 999

#: Largest deviation from a regular distance between DICOM slices that is taken for rounding, in mm.
_SLICE_TOLERANCE_MM = 0.1


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


@dataclass(frozen=True)
class Grid:
    """Where the voxels of an image lie, in SimpleITK's conventions: (x, y, z), mm, LPS.

    Attributes:
        size: Voxels along x, y (and z).
        spacing: mm.
        origin: Position of the first voxel, mm.
        direction: Direction cosines, row by row.
        nifti_header: The header that the image came with, where it was NIfTI: its geometry is copied to the result bit
            by bit (both transforms with their codes, which SimpleITK would merge into one).
    """

    size: tuple[int, ...]
    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[float, ...]
    nifti_header: nibabel.Nifti1Header | None = field(default=None, compare=False, repr=False)

    @property
    def dimension(self) -> int:
        """2 or 3."""
        return len(self.size)

    @property
    def voxel_volume_ml(self) -> float:
        """Volume of a voxel; of a pixel, one millimetre thick, in two dimensions."""
        return float(np.prod(self.spacing)) / 1000

    @classmethod
    def of(cls, image: SimpleITK.Image) -> Grid:
        """The grid of a SimpleITK image of two or three dimensions."""
        return cls(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())

    def image(self, array: Shaped[np.ndarray, "z y x"]) -> SimpleITK.Image:
        """Puts an array, ``(z, y, x)`` with z = 1 for two dimensions, on this grid."""
        import SimpleITK

        image = SimpleITK.GetImageFromArray(array[0] if self.dimension == 2 else array)
        image.SetSpacing(self.spacing)
        image.SetOrigin(self.origin)
        image.SetDirection(self.direction)
        return image


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
        arrays, grid = _read_dicom(case.files)
    else:
        parts = [_read_file(file, channels) for file in case.files]
        grid = parts[0][1]
        for file, (_, other) in zip(case.files, parts, strict=True):
            _refuse_other_grid(case.files[0], grid, file, other)
        arrays = np.concatenate([array for array, _ in parts])
    scan = _scan(case.identifier, arrays, grid)
    check_scan(scan, channels, admit_2d=admit_2d)
    return scan


def scan_of_image(image: SimpleITK.Image, identifier: str = "image") -> Scan:
    """Takes a SimpleITK image of two or three dimensions (with several components: one channel each)."""
    array, grid = _split(image)
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
    )
    return _scan(identifier, array, grid)


def check_scan(scan: Scan, channels: int, *, admit_2d: bool) -> None:
    """Refuses what a network would silently turn into nonsense.

    Raises:
        UserError: See `read_scan`.
    """
    found = scan.channels.shape[0]
    if found != channels:
        raise UserError(f"Expected {_count(channels, 'channel')} per case, but {scan.identifier} has {found}.")
    if scan.grid.dimension == 2 and not admit_2d:
        raise UserError(f"Expected a 3D image for this 3D model, but {scan.identifier} is 2D.")
    if 0 in scan.channels.shape:
        raise UserError(f"Expected an image with voxels, but {scan.identifier} has shape {scan.channels.shape[1:]}.")
    # The sum is finite exactly when all voxels are, short of an overflow that the second look settles.
    if not np.isfinite(scan.channels.sum(dtype=np.float64)):
        bad = int(scan.channels.size - np.isfinite(scan.channels).sum())
        if bad:
            raise UserError(
                f"Expected finite intensities, but {scan.identifier} has {_count(bad, 'voxel')} that are NaN or "
                "infinite; replace them (air is -1000 HU in CT)."
            )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _scan(identifier: str, array: np.ndarray, grid: Grid) -> Scan:
    spacing = [abs(value) for value in grid.spacing[::-1]]
    if len(spacing) == 2:
        spacing = [max(spacing) * _SPACING_ACROSS_2D, *spacing]
    # float64 beyond float32 becomes infinite here and is refused by name afterwards.
    with np.errstate(over="ignore"):
        channels = array.astype(np.float32, copy=False)
    return Scan(identifier, channels, (spacing[0], spacing[1], spacing[2]), grid)


def _read_file(file: Path, channels: int) -> tuple[np.ndarray, Grid]:
    """One file as ``(channels, z, y, x)``; more than one channel only from a file of four dimensions."""
    return _read_nifti(file, channels) if is_nifti(file) else _read_itk(file)


def _read_nifti(file: Path, channels: int) -> tuple[np.ndarray, Grid]:
    image, array = read_nifti(file)
    shape = image.shape
    if image.get_data_dtype().fields is not None:
        raise UserError(f"Expected grey values in {file}, but its voxels are of the type {image.get_data_dtype()}.")
    # (x, y, z, 1) and (x, y, z, 1, n) are how some programs write volumes and vectors.
    while len(shape) > 3 and 1 in shape[3:]:
        drop = shape.index(1, 3)
        shape = shape[:drop] + shape[drop + 1 :]
    if len(shape) not in (2, 3, 4) or (len(shape) == 4 and shape[3] != channels):
        raise UserError(
            f"Expected a 3D image of {_count(channels, 'channel')}, but {file} has the dimensions {image.shape}; "
            "split it into single volumes."
        )
    array = array.reshape(shape, order="A")
    array = array.T if array.ndim == 4 else array.T[None]
    if array.ndim == 3:
        array = array[:, None]
    return array, _nifti_grid(file, image, shape[:3])


def _nifti_grid(file: Path, image: Any, size: tuple[int, ...]) -> Grid:
    """The grid as SimpleITK, and so nnU-Net, understands the header."""
    import SimpleITK

    dimension = len(size)
    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(file))
    reader.SetImageIO("NiftiImageIO")
    try:
        reader.ReadImageInformation()
        spacing, origin = reader.GetSpacing()[:dimension], reader.GetOrigin()[:dimension]
        direction = np.reshape(reader.GetDirection(), (reader.GetDimension(),) * 2)[:dimension, :dimension]
    except RuntimeError:
        # ITK refuses sheared transforms. The nearest rotation serves for display; the file's own transform is copied
        # to the result in any case, so that both still overlay.
        _logger.info("%s has axes that are not orthogonal; its transform is copied to the result as it is.", file)
        affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ image.affine
        columns = affine[:3, :3]
        spacing = tuple(float(value) for value in np.linalg.norm(columns, axis=0))[:dimension]
        left, _, right = np.linalg.svd(columns / np.linalg.norm(columns, axis=0))
        origin, direction = tuple(affine[:3, 3])[:dimension], (left @ right)[:dimension, :dimension]
    header = image.header.copy()
    header.extensions.clear()
    return Grid(size, spacing, tuple(map(float, origin)), tuple(map(float, direction.ravel())), header)


def _read_itk(file: Path) -> tuple[np.ndarray, Grid]:
    array, grid = _split(read_image(file))
    if file.suffix.lower() in (".tif", ".tiff") and grid.dimension == 3:
        grid = replace(grid, spacing=_tiff_spacing(file))
    return array, grid


def _tiff_spacing(file: Path) -> tuple[float, ...]:
    """Spacing (x, y, z) from the JSON file that nnU-Net's ``Tiff3DIO`` keeps beside ``case_0000.tif``; else 1 mm."""
    beside = file.with_name(re.sub(r"_\d{4}$", "", file.stem) + ".json")
    if not beside.is_file():
        _logger.warning("%s has no %s with its spacing; taking 1 mm.", file, beside.name)
        return (1.0, 1.0, 1.0)
    spacing = read_json(beside)["spacing"]
    return tuple(float(value) for value in reversed(spacing))


def _split(image: SimpleITK.Image) -> tuple[np.ndarray, Grid]:
    """A SimpleITK image as ``(channels, z, y, x)`` and the grid of its spatial axes."""
    import SimpleITK

    array = SimpleITK.GetArrayFromImage(image)
    dimension = image.GetDimension()
    if image.GetNumberOfComponentsPerPixel() > 1:
        array = np.moveaxis(array, -1, 0)
        if dimension == 4:
            raise UserError("Expected components or a fourth axis as channels, but the image has both.")
    elif dimension == 4:
        # As nnU-Net: the fourth axis holds the channels.
        direction = np.reshape(image.GetDirection(), (4, 4))[:3, :3].ravel()
        grid = Grid(image.GetSize()[:3], image.GetSpacing()[:3], image.GetOrigin()[:3], tuple(direction))
        return array, grid
    else:
        array = array[None]
    if dimension == 2:
        array = array[:, None]
    return array, Grid.of(image)


def _read_dicom(files: Sequence[Path]) -> tuple[np.ndarray, Grid]:
    import SimpleITK

    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames([str(file) for file in files])
    reader.MetaDataDictionaryArrayUpdateOn()
    folder = files[0].parent
    try:
        image = reader.Execute()
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise UserError(f"Expected a complete DICOM series in {folder}, but it cannot be read ({reason}).") from error
    deviation = _slice_deviation_mm(reader, len(files))
    if deviation > _SLICE_TOLERANCE_MM:
        raise UserError(
            f"Expected slices at equal distances in {folder}, but they deviate by up to {deviation:.2f} mm; slices are "
            "probably missing."
        )
    return _split(image)


def _slice_deviation_mm(reader: SimpleITK.ImageSeriesReader, slices: int) -> float:
    """Largest deviation of a distance between neighbouring slices from the mean distance; ITK only warns of it."""
    key = "0020|0032"  # Image Position (Patient)
    if slices < 3 or not all(reader.HasMetaDataKey(number, key) for number in range(slices)):
        return 0.0
    positions = [[float(value) for value in reader.GetMetaData(n, key).split("\\")] for n in range(slices)]
    distances = np.linalg.norm(np.diff(positions, axis=0), axis=1)
    return float(np.abs(distances - distances.mean()).max())


def _refuse_other_grid(first: Path, grid: Grid, file: Path, other: Grid) -> None:
    """Channels must share size and spacing; nnU-Net too only warns when origin or direction differ."""
    if grid.size != other.size or not np.allclose(grid.spacing, other.spacing, rtol=1e-4):
        raise UserError(
            f"Expected the channels of a case on one grid, but {first.name} has {grid.size} voxels of "
            f"{_rounded(grid.spacing)} mm and {file.name} {other.size} of {_rounded(other.spacing)} mm."
        )
    if not np.allclose(grid.origin, other.origin, atol=1e-2) or not np.allclose(
        grid.direction, other.direction, atol=1e-3
    ):
        _logger.warning("%s and %s have different origins or directions; check that they overlay.", first, file)


def _rounded(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(round(value, 4) for value in values)
