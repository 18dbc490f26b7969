"""One picture per case: the image in grey with classes over it."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Integer, Shaped

from nnunetv2_ext.images.colours import display_colours
from nnunetv2_ext.images.geometry import AxisTurn, Grid
from nnunetv2_ext.utilities.files import atomic_path
from nnunetv2_ext.utilities.label_counts import count_label_values

_OPACITY = 0.5
_LEGEND_ROWS = 28

# Pixels along the longer side of each slice of a thumbnail, and between two slices.
_SIDE, _GAP = 160, 4
_JPEG_QUALITY = 80
# Voxels among which the slices and the grey levels of a thumbnail are chosen.
_VOXELS_OF_CHOICE = 1 << 16

# A soft-tissue window of CT, in HU (level 40, width 400), used where the image reaches air and bone.
CT_WINDOW = (-160.0, 240.0)


def write_preview(
    labels: Integer[np.ndarray, "z y x"],
    intensities: Shaped[np.ndarray, "z y x"],
    names: Mapping[int, str],
    grid: Grid,
    target: Path | str,
    title: str = "",
) -> None:
    """Writes what `draw_label_maps` draws of one label map as a PNG file."""
    with atomic_path(target) as temporary:
        temporary.write_bytes(draw_label_maps({"": labels}, intensities, names, grid, title))


def draw_label_maps(
    maps: Mapping[str, Integer[np.ndarray, "z y x"]],
    intensities: Shaped[np.ndarray, "z y x"] | None,
    names: Mapping[int, str],
    grid: Grid,
    title: str = "",
    dpi: int = 100,
) -> bytes:
    """Draws an axial, a coronal and a sagittal slice of label maps, one map per row, with colours and a legend.

    Each slice is the one with the most different classes, and the largest labelled area among those; of two maps, the
    one in which they differ most. The patient is shown as radiologists expect: head up, patient's right on the left.

    Args:
        maps: Name -> label map, one or two of the same shape.
        intensities: The image of that shape; black if there is none.
        names: Class name of every integer but 0.
        grid: Where the voxels lie.
        title: Text above the picture.
        dpi: Pixels per inch; a row is 15 inches wide.

    Returns:
        A PNG file.
    """
    # The object interface draws without the global state of pyplot, so that several threads may draw at once.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    turn, spacing = _as_shown(grid)
    rows = {name: np.ascontiguousarray(turn.forward(labels)) for name, labels in maps.items()}
    first, *others = rows.values()
    image = np.zeros((1, 1, 1)) if intensities is None else intensities
    low, high = display_window(image)
    image = np.broadcast_to(turn.forward(image), first.shape)
    size = max(max(names, default=0), *(int(labels.max(initial=0)) for labels in rows.values())) + 1
    counts = np.sum([count_label_values(labels, size) for labels in rows.values()], axis=0)
    colours = {value: np.array(colour) / 255 for value, colour in display_colours(names).items()}
    table = np.zeros((size, 4))
    for value, colour in colours.items():
        table[value] = (*colour, _OPACITY)
    differences = [(first != other).view(np.uint8) for other in others]
    shown = next((difference for difference in differences if difference.any()), first)
    chosen = _richest_slices(shown, np.flatnonzero(count_label_values(shown, int(shown.max(initial=0)) + 1)[1:]) + 1)

    widths = [first.shape[axis] * spacing[axis] for axis in (2, 2, 1)]
    figure = Figure(figsize=(15, 5 * len(rows)), facecolor="black", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), 4, width_ratios=[*widths, max(widths) * 0.6], squeeze=False)
    for plots, (name, labels) in zip(axes, rows.items(), strict=True):
        for axis, (plot, view) in enumerate(zip(plots, ("axial", "coronal", "sagittal"), strict=False)):
            across = [size for number, size in enumerate(spacing) if number != axis]
            grey, numbers = (np.take(array, chosen[axis], axis) for array in (image, labels))
            plot.imshow(grey, cmap="gray", vmin=low, vmax=high, interpolation="bilinear")
            plot.imshow(table[numbers], interpolation="nearest")
            plot.set_aspect(across[0] / across[1])
            plot.set_title(f"{name} {view}".strip(), color="white", fontsize=9)
        for plot in plots:
            plot.axis("off")
    present = sorted((value for value in names if counts[value]), key=lambda value: -counts[value])
    patches = [Patch(color=tuple(colours[value]), label=names[value]) for value in present[:_LEGEND_ROWS]]
    if more := len(present) - len(patches):
        patches.append(Patch(color="none", label=f"and {more} smaller classes"))
    legend = axes[0, 3].legend(handles=patches, loc="center left", fontsize=7, frameon=False, labelcolor="white")
    for text in (*legend.get_texts(), figure.suptitle(title, color="white", fontsize=10)):
        text.set_parse_math(False)
    picture = BytesIO()
    figure.savefig(picture, format="png", dpi=dpi)
    return picture.getvalue()


def draw_thumbnail(
    labels: Integer[np.ndarray, "z y x"] | None,
    intensities: Shaped[np.ndarray, "z y x"],
    names: Mapping[int, str],
    grid: Grid,
) -> bytes:
    """Draws the slices of `draw_label_maps` side by side, small, without text, in a hundredth of the time.

    Args:
        labels: A label map, if there is one.
        intensities: The image of the same shape.
        names: Class name of every label that is drawn.
        grid: Where the voxels lie.

    Returns:
        A JPEG file.
    """
    from matplotlib.image import imsave

    turn, spacing = _as_shown(grid)
    image = turn.forward(intensities)
    shown = np.broadcast_to(np.uint8(0), image.shape) if labels is None else turn.forward(labels)
    low, high = display_window(_sample(intensities)[0])
    table = np.zeros((int(shown.max()) + 1, 4))
    for value, colour in display_colours({value: names[value] for value in names if value < len(table)}).items():
        table[value] = (*(share / 255 for share in colour), _OPACITY)
    slices = []
    for axis, index in enumerate(_slices_of_sample(shown) if grid.dimension == 3 else [0]):
        # Not np.take, which copies a whole array whose axes are turned.
        grey, numbers = (np.moveaxis(array, axis, 0)[index] for array in (image, shown))
        lengths = [
            size * mm for number, (size, mm) in enumerate(zip(shown.shape, spacing, strict=True)) if number != axis
        ]
        # The voxel that is nearest to the middle of each pixel.
        rows, columns = (
            ((np.arange(pixels) + 0.5) * size / pixels).astype(np.intp)
            for size, pixels in zip(
                grey.shape, (max(1, round(_SIDE * mm / max(lengths))) for mm in lengths), strict=True
            )
        )
        grey = np.clip((grey[np.ix_(rows, columns)].astype(np.float64) - low) / (high - low), 0, 1)[..., None]
        colours = table[numbers[np.ix_(rows, columns)]]
        slices.append(grey * (1 - colours[..., 3:]) + colours[..., :3] * colours[..., 3:])
    picture = np.zeros((_SIDE, len(slices) * (_SIDE + _GAP) - _GAP, 3))
    for number, drawn in enumerate(slices):
        top, left = (_SIDE - drawn.shape[0]) // 2, number * (_SIDE + _GAP) + (_SIDE - drawn.shape[1]) // 2
        picture[top : top + drawn.shape[0], left : left + drawn.shape[1]] = drawn
    file = BytesIO()
    imsave(file, np.round(picture * 255).astype(np.uint8), format="jpeg", pil_kwargs={"quality": _JPEG_QUALITY})
    return file.getvalue()


def _as_shown(grid: Grid) -> tuple[AxisTurn, tuple[float, float, float]]:
    """The turn that shows a patient upright, and the spacings along the turned axes.

    Rows run from head to foot and from front to back, columns to the patient's left: left, posterior, inferior.
    """
    if grid.dimension != 3:
        return AxisTurn((0, 1, 2), (False, False, False)), (max(grid.spacing), grid.spacing[1], grid.spacing[0])
    turn = AxisTurn.to("LPI", grid)
    return turn, turn.reorder(grid.spacing[::-1])


def _slices_of_sample(labels: Integer[np.ndarray, "z y x"]) -> list[int]:
    """The richest slices of every n-th voxel along each axis, or of all where those show nothing."""
    sample, step = _sample(labels)
    if not sample.any():
        if not labels.any():
            return [size // 2 for size in labels.shape]
        step, sample = 1, labels
    values = np.flatnonzero(count_label_values(sample, int(sample.max(initial=0)) + 1)[1:]) + 1
    return [index * step for index in _richest_slices(sample, values)]


def _sample(array: Shaped[np.ndarray, "z y x"]) -> tuple[Shaped[np.ndarray, "w v u"], int]:
    """Every n-th voxel along each axis, and n."""
    step = max(1, round((array.size / _VOXELS_OF_CHOICE) ** (1 / 3)))
    return array[::step, ::step, ::step], step


def _richest_slices(labels: Integer[np.ndarray, "z y x"], values: Shaped[np.ndarray, " values"]) -> list[int]:
    """Along each axis the slice with the most classes and, among equals, the most labelled voxels.

    All are counted in one pass over the labelled voxels; of an empty map it is the middle one.
    """
    number_of = np.zeros(int(values.max(initial=0)) + 1, dtype=np.intp)
    number_of[values] = np.arange(len(values))
    counts = [np.zeros((size, len(values)), dtype=np.intp) for size in labels.shape]
    for along_z, plane in enumerate(labels):
        along_y, along_x = np.nonzero(plane)
        numbers = number_of[plane[along_y, along_x]]
        places: tuple[Any, ...] = (along_z, along_y, along_x)
        for of_axis, index in zip(counts, places, strict=True):
            found = np.bincount(index * len(values) + numbers, minlength=of_axis.size)
            of_axis += found.reshape(of_axis.shape)
    return [
        int(np.lexsort((of_axis.sum(1), np.count_nonzero(of_axis, axis=1)))[-1]) if of_axis.any() else len(of_axis) // 2
        for of_axis in counts
    ]


def display_window(intensities: Shaped[np.ndarray, "z y x"]) -> tuple[float, float]:
    """Black and white level: the soft-tissue window for what looks like HU, else the 1st and 99th percentile."""
    sample = intensities.ravel()[:: max(1, intensities.size // 1_000_000)]
    low, high = (float(value) for value in np.percentile(sample, (1, 99)))
    if low < -500 and high < 4000:
        return CT_WINDOW
    return low, max(high, low + 1e-6)
