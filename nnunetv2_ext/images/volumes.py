"""Reading and writing of volumes, with every fault of a file turned into one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnunetv2_ext.images.files import damaged, is_nifti, read_image, read_nifti
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.files import atomic_path

Array = npt.NDArray[Any]

# Half a percent of a voxel or of a unit vector: what rounding in headers of 32-bit floats and of text files explains.
_ROUNDING = 5e-3
# Slices of a DICOM series may lie this far (mm) from equal distances before one is taken to be missing.
_SLICE_TOLERANCE = 0.1
# DICOM tag Image Position (Patient).
_POSITION = "0020|0032"


@dataclass(frozen=True)
class Grid:
    """Where the voxels lie, as SimpleITK says it: x, y, z order, mm, LPS (x grows to the patient's left).

    Attributes:
        size: Voxels along x, y, z.
        spacing: mm along x, y, z.
        origin: Centre of the first voxel, mm.
        direction: Nine direction cosines, row by row; column ``i`` is the direction of index axis ``i``.
    """

    size: tuple[int, ...]
    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[float, ...]

    @property
    def matrix(self) -> npt.NDArray[np.float64]:
        """Index (x, y, z) to LPS mm: 4 x 4."""
        matrix = np.eye(4)
        matrix[:3, :3] = np.reshape(self.direction, (3, 3)) * np.asarray(self.spacing)
        matrix[:3, 3] = self.origin
        return matrix

    def difference(self, other: Grid) -> str | None:
        """What tells the two grids apart beyond rounding, in words; None where nothing does."""
        if self.size != other.size:
            return f"{_listed(self.size)} voxels and {_listed(other.size)}"
        if not np.allclose(self.spacing, other.spacing, rtol=_ROUNDING):
            return f"a spacing of {_listed(self.spacing)} mm and {_listed(other.spacing)} mm"
        if not np.allclose(self.direction, other.direction, atol=_ROUNDING):
            return f"axes along {_listed(self.direction)} and {_listed(other.direction)}"
        # The tolerance grows with the size because a rounded spacing shifts the far corner by that much.
        if not np.allclose(self.origin, other.origin, atol=_ROUNDING * max(self.spacing) * 10):
            return f"an origin at {_listed(self.origin)} mm and {_listed(other.origin)} mm"
        return None


@dataclass(frozen=True)
class Volume:
    """An image or label map in memory.

    Attributes:
        array: Voxels (z, y, x).
        grid: Where they lie.
        file: The file that holds exactly these voxels, where there is one.
        mended: What had to be put right while reading, in words.
    """

    array: Array
    grid: Grid
    file: Path | None = None
    mended: str = ""

    def with_array(self, array: Array) -> Volume:
        """Other voxels of the same shape on the same grid."""
        return replace(self, array=array, file=None)


def read_volumes(path: Path) -> list[Volume]:
    """Reads a file: one volume, or one per channel where the file has a fourth axis.

    Raises:
        UserError: The file is missing, truncated or otherwise unreadable.
    """
    array, grid, mended = _read_nifti(path) if is_nifti(path) else _read_other(path)
    if array.ndim == 3:
        return [Volume(array, grid, path, mended)]
    return [Volume(channel, grid, None, mended) for channel in array]


def read_volume(path: Path) -> Volume:
    """Reads a file with one channel.

    Raises:
        UserError: As `read_volumes`, or the file has several channels.
    """
    volumes = read_volumes(path)
    if len(volumes) != 1:
        raise UserError(f"Expected one volume in {path}, but it holds {len(volumes)} channels.")
    return volumes[0]


def read_dicom_series(folder: Path) -> Volume:
    """Reads the image series with the most slices anywhere below a folder.

    Raises:
        UserError: There is no image series, or its slices are not equally spaced.
    """
    import SimpleITK as sitk

    best: Sequence[str] = ()
    for subfolder in sorted({file.parent for file in folder.rglob("*.dcm")}):
        for series in sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(subfolder)):
            files = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(subfolder), series)
            best = files if len(files) > len(best) else best
    if len(best) < 2:
        raise UserError(f"Expected a DICOM image series of several slices below {folder}, but found none.")
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(best)
    reader.MetaDataDictionaryArrayUpdateOn()
    try:
        image = reader.Execute()
    except RuntimeError as error:
        raise damaged(Path(best[0]).parent, error) from None
    # ITK notes uneven distances in a form that Python cannot read, so they are worked out here.
    positions = [[float(part) for part in reader.GetMetaData(n, _POSITION).split("\\")] for n in range(len(best))]
    distances = np.linalg.norm(np.diff(positions, axis=0), axis=1)
    if np.ptp(distances) > _SLICE_TOLERANCE:
        raise UserError(
            f"Expected slices at equal distances in {Path(best[0]).parent}, but they are {distances.min():.2f} to "
            f"{distances.max():.2f} mm apart; a slice is probably missing, download the series again."
        )
    return Volume(sitk.GetArrayFromImage(image), _grid_of(image))


def write_volume(volume: Volume, target: Path) -> None:
    """Writes compressed NIfTI, atomically, and checks that the grid in the file is the one it should be."""
    import SimpleITK as sitk

    with atomic_path(target) as temporary:
        sitk.WriteImage(_sitk_image(volume), str(temporary), useCompression=True)
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(temporary))
        reader.ReadImageInformation()
        difference = volume.grid.difference(_grid_of(reader))
        if difference:
            raise UserError(f"Expected {target} to keep its grid, but NIfTI cannot hold it: {difference}.")


def resample_label(label: Volume, grid: Grid) -> Volume:
    """Nearest-neighbour resampling of a label map; outside it is background."""
    import SimpleITK as sitk

    reference = sitk.Image([int(n) for n in grid.size], sitk.sitkUInt8)
    reference.SetSpacing(grid.spacing)
    reference.SetOrigin(grid.origin)
    reference.SetDirection(grid.direction)
    resampled = sitk.Resample(_sitk_image(label), reference, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
    return Volume(sitk.GetArrayFromImage(resampled), grid)


def oriented_lps(volume: Volume) -> Volume:
    """The same voxels with axes as near as possible to left, posterior, superior; a view where possible."""
    import nibabel.orientations as orientations

    to_ras = np.diag([-1.0, -1.0, 1.0, 1.0])
    affine = to_ras @ volume.grid.matrix
    transform = orientations.ornt_transform(
        orientations.io_orientation(affine), orientations.axcodes2ornt(("L", "P", "S"))
    )
    array = orientations.apply_orientation(volume.array.transpose(), transform)
    if np.array_equal(transform, [[0, 1], [1, 1], [2, 1]]):
        return volume
    matrix = to_ras @ affine @ orientations.inv_ornt_aff(transform, volume.array.shape[::-1])
    spacing = np.linalg.norm(matrix[:3, :3], axis=0)
    grid = Grid(
        tuple(array.shape),
        tuple(float(value) for value in spacing),
        tuple(float(value) for value in matrix[:3, 3]),
        tuple(float(value) for value in (matrix[:3, :3] / spacing).reshape(-1)),
    )
    return Volume(array.transpose(), grid, None, volume.mended)


def crop(volume: Volume, bounds: Sequence[tuple[int, int]]) -> Volume:
    """Cuts out index bounds ``(first, end)`` along x, y, z; bounds beyond the volume end at its border."""
    limits = [(max(first, 0), min(end, size)) for (first, end), size in zip(bounds, volume.grid.size, strict=True)]
    if any(first >= end for first, end in limits):
        raise UserError(f"Expected a crop inside {_listed(volume.grid.size)} voxels, but got {list(bounds)}.")
    array = volume.array[tuple(slice(first, end) for first, end in reversed(limits))]
    origin = volume.grid.matrix @ np.array([*(first for first, _ in limits), 1.0])
    grid = replace(volume.grid, size=array.shape[::-1], origin=tuple(float(value) for value in origin[:3]))
    return Volume(array, grid, None, volume.mended)


def compact(array: Array) -> Array:
    """The same values in a type that NIfTI and SimpleITK know, integers where they are whole 16-bit numbers."""
    if array.dtype.kind == "b":
        return array.astype(np.uint8)
    if array.dtype.kind == "f":
        lowest, highest = array.min(), array.max()
        if lowest >= -32768 and highest <= 32767 and all(np.array_equal(np.rint(plane), plane) for plane in array):
            return array.astype(np.int16)
        return array.astype(np.float32, copy=False)
    return array.astype(np.int32) if array.dtype.itemsize == 8 else array


def _read_nifti(path: Path) -> tuple[Array, Grid, str]:
    import SimpleITK as sitk

    image, array = read_nifti(path)
    while array.ndim > 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim not in (3, 4):
        raise UserError(f"Expected three axes in {path}, but it has {array.ndim} ({_listed(array.shape)} voxels).")
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    mended = ""
    try:
        reader.ReadImageInformation()
        grid = _grid_of(reader)
    except RuntimeError as error:
        if "orthonormal" not in str(error):
            raise damaged(path, error) from None
        grid, mended = _orthonormal_grid(image.affine, array.shape[:3])
    return array.transpose(), grid, mended


def _orthonormal_grid(affine: npt.NDArray[np.float64], size: Sequence[int]) -> tuple[Grid, str]:
    """The nearest grid with right angles; ITK, and with it nnU-Net's reader, refuses all others."""
    matrix = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    spacing = np.linalg.norm(matrix[:3, :3], axis=0)
    cosines = matrix[:3, :3] / spacing
    left, _, right = np.linalg.svd(cosines)
    direction = left @ right
    deviation = float(np.degrees(np.arcsin(min(1.0, np.abs(cosines - direction).max()))))
    grid = Grid(
        tuple(int(n) for n in size),
        tuple(float(value) for value in spacing),
        tuple(float(value) for value in matrix[:3, 3]),
        tuple(float(value) for value in direction.reshape(-1)),
    )
    return grid, f"the axes in the header were not at right angles (off by {deviation:.2g} degrees)"


def _read_other(path: Path) -> tuple[Array, Grid, str]:
    import SimpleITK as sitk

    image = read_image(path)
    array = sitk.GetArrayFromImage(image)
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise UserError(f"Expected a volume of one channel in {path}, but it has the shape {_listed(array.shape)}.")
    return array, _grid_of(image), ""


def _grid_of(image: Any) -> Grid:
    """The grid of a SimpleITK image or reader, of its first three axes."""
    dimension = len(image.GetSize())
    direction = np.reshape(image.GetDirection(), (dimension, dimension))[:3, :3]
    return Grid(
        tuple(int(n) for n in image.GetSize()[:3]),
        tuple(image.GetSpacing()[:3]),
        tuple(image.GetOrigin()[:3]),
        tuple(float(value) for value in direction.reshape(-1)),
    )


def _sitk_image(volume: Volume) -> Any:
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.array))
    image.SetSpacing(volume.grid.spacing)
    image.SetOrigin(volume.grid.origin)
    image.SetDirection(volume.grid.direction)
    return image


def _listed(values: Sequence[float]) -> str:
    return "(" + ", ".join(f"{value:.5g}" for value in values) + ")"
