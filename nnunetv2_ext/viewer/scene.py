"""What the viewer shows: a scan and label maps, turned to the patient, and where their voxels lie in the files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int16, Integer, Shaped

from nnunetv2_ext.images.colours import display_colours
from nnunetv2_ext.images.geometry import AxisTurn, Grid
from nnunetv2_ext.images.preview import CT_WINDOW, display_window
from nnunetv2_ext.images.reading import read_dicom_series, read_volume
from nnunetv2_ext.images.volumes import Volume, resample_image, resample_label
from nnunetv2_ext.labels.label_order import as_integers
from nnunetv2_ext.labels.order_of_files import order_of
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.label_counts import count_label_values

MOST_MAPS = 2
#: Label values that the page can tell apart.
_MOST_VALUE = np.iinfo(np.uint16).max
#: From the patient's right to the left, from front to back, from head to feet: as pages are read.
_ORIENTATION = "LPI"
#: Share of a unit vector by which axes may be off the patient's before the scan is resampled.
_OBLIQUE = 0.02
#: Further windows of CT: name, level and width in HU.
_CT_WINDOWS = (("lung", -600, 1500), ("bone", 400, 1800), ("brain", 40, 80), ("liver", 60, 160))


@dataclass(frozen=True)
class Scene:
    """A scan with label maps, ready to be drawn.

    Attributes:
        image: Intensities (z, y, x), from head to feet, from front to back, from right to left; the value is
            ``stored * slope + intercept``.
        maps: Label maps of the same shape, by name.
        description: All else that the page needs, see `read_scene`.
        notes: What had to be done to the scan, in sentences.
    """

    image: Int16[np.ndarray, "z y x"]
    maps: Mapping[str, Integer[np.ndarray, "z y x"]]
    description: Mapping[str, Any]
    notes: tuple[str, ...]

    def sources(self) -> dict[str, memoryview]:
        """Name -> bytes of the voxels, as the page asks for them."""
        arrays = {"image": self.image, **{f"map_{number}": voxels for number, voxels in enumerate(self.maps.values())}}
        return {name: voxels.data.cast("B") for name, voxels in arrays.items()}


def read_scene(
    image: Path, label_maps: Sequence[Path], order: str | None = None, *, voxels: int | None = None
) -> Scene:
    """Reads a scan and up to two label maps.

    Args:
        image: An image file, or a folder with a DICOM series.
        label_maps: Files on the same grid.
        order: Label order that says what the integers mean; by default what the label maps' headers or the
            ``labels.json`` or ``dataset.json`` beside them say.
        voxels: Above this number every second voxel (or third, ...) along each axis is shown; None shows all.

    Raises:
        UserError: A file cannot be read, is 2D, or lies on another grid than the scan.
    """
    scan = read_dicom_series(image) if image.is_dir() else read_volume(image)
    if scan.grid.dimension != 3:
        raise UserError(f"Expected a scan in three dimensions, but {image} is 2D; any picture viewer shows it.")
    if len(label_maps) > MOST_MAPS:
        raise UserError(f"Expected at most {MOST_MAPS} label maps, but got {len(label_maps)}.")
    labels = [_read_labels(file, scan.grid, image) for file in label_maps]
    names = _names(label_maps, order)
    notes: list[str] = []
    turned, labels, to_file = _towards_the_patient(scan, labels, notes)
    stride = 1 if voxels is None else _stride(turned.array.size, voxels)
    if stride > 1:
        notes.append(f"Every {_ordinal(stride)} voxel of each axis is shown, to keep the file small.")
        turned, labels = _thinned(turned, stride), [_thinned(each, stride) for each in labels]
        to_file = to_file @ np.diag([stride, stride, stride, 1.0])
    maps = dict(zip(_titles(label_maps), (_smallest(each.array) for each in labels), strict=True))
    stored, slope, intercept = _as_int16(turned.array)
    description = {
        "shape": list(stored.shape),
        "spacing": list(turned.grid.spacing[::-1]),
        "slope": slope,
        "intercept": intercept,
        "to_file": to_file[:3].tolist(),
        "to_patient": turned.grid.affine[:3].tolist(),
        "windows": _windows(turned.array),
        "start": [size // 2 for size in stored.shape],
        "maps": [
            {"name": name, "source": f"map_{number}", "bytes": voxels.itemsize}
            for number, (name, voxels) in enumerate(maps.items())
        ],
        "classes": _classes(list(maps.values()), names, turned.grid.voxel_volume_ml),
    }
    return Scene(stored, maps, description, tuple(notes))


def _read_labels(file: Path, grid: Grid, image: Path) -> Volume:
    volume = read_volume(file)
    if difference := grid.difference(volume.grid):
        raise UserError(f"Expected a label map on the grid of {image}, but {file} has {difference}.")
    try:
        array = as_integers(volume.array)
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    if array.size and not 0 <= int(array.min()) <= int(array.max()) <= _MOST_VALUE:
        raise UserError(
            f"Expected label values from 0 to {_MOST_VALUE} in {file}, but found {array.min()} to {array.max()}."
        )
    return volume.with_array(array)


def _names(files: Sequence[Path], order: str | None) -> dict[int, str]:
    found = order_of(files, order)
    return {} if found is None else {value: ", ".join(sorted(names)) for value, names in found.classes_of_value.items()}


def _titles(files: Sequence[Path]) -> list[str]:
    """File names, with their folders where two are alike."""
    names = [file.name for file in files]
    return names if len(set(names)) == len(names) else [str(file) for file in files]


def _towards_the_patient(
    scan: Volume, labels: Sequence[Volume], notes: list[str]
) -> tuple[Volume, list[Volume], np.ndarray[Any, Any]]:
    """Scan and label maps with axes along the patient's, and the matrix from their index (x, y, z) to the file's."""
    turn = AxisTurn.to(_ORIENTATION, scan.grid)
    grid = turn.grid(scan.grid)
    target = np.diag([1.0, 1.0, -1.0])
    if np.abs(np.reshape(grid.direction, (3, 3)) - target).max() <= _OBLIQUE:
        shown = [Volume(np.ascontiguousarray(turn.forward(each.array)), grid) for each in (scan, *labels)]
    else:
        notes.append("The scan is oblique: it is resampled along the patient's axes, and intensities are interpolated.")
        grid = _box_around(grid, target)
        shown = [resample_image(scan, grid), *(resample_label(each, grid) for each in labels)]
    return shown[0], shown[1:], np.linalg.inv(scan.grid.matrix) @ grid.matrix


def _box_around(grid: Grid, direction: np.ndarray[Any, Any]) -> Grid:
    """A grid along these axes that holds all of another one, with its spacing."""
    corners = np.array(np.meshgrid(*[(0, size - 1) for size in grid.size])).reshape(3, -1)
    positions = direction.T @ (grid.matrix[:3, :3] @ corners + grid.matrix[:3, 3:])
    first, last = positions.min(1), positions.max(1)
    size = tuple(int(n) for n in np.ceil((last - first) / grid.spacing - 1e-6) + 1)
    origin = tuple(map(float, direction @ first))
    return replace(grid, size=size, origin=origin, direction=tuple(map(float, direction.ravel())), nifti_header=None)


def _stride(size: int, voxels: int) -> int:
    stride = 1
    while size > voxels * stride**3:
        stride += 1
    return stride


def _ordinal(number: int) -> str:
    return {2: "second", 3: "third"}.get(number, f"{number}th")


def _thinned(volume: Volume, stride: int) -> Volume:
    array = np.ascontiguousarray(volume.array[::stride, ::stride, ::stride])
    spacing = tuple(mm * stride for mm in volume.grid.spacing)
    return Volume(array, replace(volume.grid, size=array.shape[::-1], spacing=spacing))


def _smallest(labels: Integer[np.ndarray, "z y x"]) -> Integer[np.ndarray, "z y x"]:
    return labels.astype(np.uint8 if labels.max(initial=0) < 256 else np.uint16)


def _as_int16(array: Shaped[np.ndarray, "z y x"]) -> tuple[Int16[np.ndarray, "z y x"], float, float]:
    """Voxels as 16-bit integers, exactly where they are such, with slope and intercept."""
    low, high = float(array.min()), float(array.max())
    if low >= -32768 and high <= 32767 and all(np.array_equal(np.rint(plane), plane) for plane in array):
        return array.astype(np.int16), 1.0, 0.0
    slope = (high - low) / 65535 or 1.0
    intercept = low + 32768 * slope
    return np.rint((array - intercept) / slope).clip(-32768, 32767).astype(np.int16), slope, intercept


def _windows(array: Shaped[np.ndarray, "z y x"]) -> list[dict[str, Any]]:
    """Presets, the best first: those of CT for what looks like HU."""
    best = display_window(array)
    named = [("best", *best)]
    if best == CT_WINDOW:
        further = ((name, level - width / 2, level + width / 2) for name, level, width in _CT_WINDOWS)
        named = [("soft tissue", *best), *further]
    named.append(("all", float(array.min()), max(float(array.max()), float(array.min()) + 1)))
    return [{"name": name, "low": low, "high": high} for name, low, high in named]


def _classes(
    maps: Sequence[Integer[np.ndarray, "z y x"]], names: Mapping[int, str], voxel_ml: float
) -> list[dict[str, Any]]:
    """Every value that occurs, the largest first: name, colour, volume in each map, and a voxel inside it."""
    if not maps:
        return []
    size = max(int(labels.max(initial=0)) for labels in maps) + 1
    counts = [count_label_values(labels, size) for labels in maps]
    present = sorted(
        (int(value) for value in np.flatnonzero(sum(counts)) if value), key=lambda value: -counts[0][value]
    )
    colours = display_colours({value: names.get(value, str(value)) for value in present})
    places = [_voxels_inside(labels, size) for labels in reversed(maps)]
    inside = {value: at for place in places for value, at in place.items()}
    return [
        {
            "value": value,
            "name": names.get(value, str(value)),
            "colour": list(colours[value]),
            "ml": [int(count[value]) * voxel_ml for count in counts],
            "at": inside[value],
        }
        for value in present
    ]


def _voxels_inside(labels: Integer[np.ndarray, "z y x"], size: int) -> dict[int, list[int]]:
    """Of each value a voxel (z, y, x): the middle one, in file order, of the plane with most of it."""
    of_plane = np.array([count_label_values(plane, size) for plane in labels])
    planes = of_plane.argmax(0)
    found: dict[int, list[int]] = {}
    for value in np.flatnonzero(of_plane.any(0)):
        rows, columns = np.nonzero(labels[planes[value]] == value)
        middle = len(rows) // 2
        found[int(value)] = [int(planes[value]), int(rows[middle]), int(columns[middle])]
    return found
