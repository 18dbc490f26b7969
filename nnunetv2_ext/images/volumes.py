"""Images and label maps in memory: cropped, turned, resampled."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnunetv2_ext.images.geometry import AxisTurn, Grid, listed
from nnunetv2_ext.utilities.errors import UserError

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Volume:
    """An image of one channel, or a label map.

    Attributes:
        array: Voxels (z, y, x); z is 1 in two dimensions.
        grid: Where they lie.
        file: The file that holds exactly these voxels and that nnU-Net can read, where there is one.
        mended: What had to be put right while reading, in words.
    """

    array: Array
    grid: Grid
    file: Path | None = None
    mended: str = ""

    def with_array(self, array: Array) -> Volume:
        """Other voxels of the same shape on the same grid."""
        return replace(self, array=array, file=None)


def resample_label(label: Volume, grid: Grid) -> Volume:
    """Nearest-neighbour resampling of a label map; outside it is background."""
    return _resample(label, grid, 0, linear=False)


def resample_image(image: Volume, grid: Grid) -> Volume:
    """Linear resampling of an image; outside it is its lowest intensity."""
    return _resample(image, grid, float(image.array.min()), linear=True)


def _resample(volume: Volume, grid: Grid, outside: float, *, linear: bool) -> Volume:
    import SimpleITK

    resampling = SimpleITK.ResampleImageFilter()
    resampling.SetSize([int(n) for n in grid.size])
    resampling.SetOutputSpacing(grid.spacing)
    resampling.SetOutputOrigin(grid.origin)
    resampling.SetOutputDirection(grid.direction)
    resampling.SetInterpolator(SimpleITK.sitkLinear if linear else SimpleITK.sitkNearestNeighbor)
    resampling.SetDefaultPixelValue(outside)
    if multiprocessing.parent_process() is not None:
        # One process per core already; more threads would only compete.
        resampling.SetNumberOfThreads(1)
    resampled = SimpleITK.GetArrayFromImage(resampling.Execute(volume.grid.image(volume.array)))
    return Volume(resampled.reshape(grid.shape), grid)


def oriented(volume: Volume, orientation: str) -> Volume:
    """The same voxels with axes as near as possible to an orientation (`Grid.orientation`); a view of them."""
    return turned(volume, AxisTurn.to(orientation, volume.grid))


def turned(volume: Volume, turn: AxisTurn) -> Volume:
    """The same voxels in the order of a turn; a view of them."""
    if turn.changes_nothing:
        return volume
    return Volume(turn.forward(volume.array), turn.grid(volume.grid), None, volume.mended)


def crop(volume: Volume, bounds: Sequence[tuple[int, int]]) -> Volume:
    """Cuts out index bounds ``(first, end)`` along x, y, z; bounds beyond the volume end at its border."""
    limits = [(max(first, 0), min(end, size)) for (first, end), size in zip(bounds, volume.grid.size, strict=True)]
    if any(first >= end for first, end in limits):
        raise UserError(f"Expected a crop inside {listed(volume.grid.size)} voxels, but got {list(bounds)}.")
    array = volume.array[tuple(slice(first, end) for first, end in reversed(limits))]
    origin = volume.grid.matrix @ np.array([*(first for first, _ in limits), 1.0])
    grid = replace(
        volume.grid, size=array.shape[::-1], origin=tuple(float(value) for value in origin[:3]), nifti_header=None
    )
    return Volume(array, grid, None, volume.mended)


def compact(array: Array) -> Array:
    """The same values in the smallest type that keeps them: 16-bit integers, or 32-bit floats."""
    if array.dtype.kind != "f":
        return array
    lowest, highest = array.min(), array.max()
    if lowest >= -32768 and highest <= 32767 and all(np.array_equal(np.rint(plane), plane) for plane in array):
        return array.astype(np.int16)
    return array.astype(np.float32, copy=False)
