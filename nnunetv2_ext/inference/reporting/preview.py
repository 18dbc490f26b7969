"""One picture per case: the image in grey with the predicted classes over it."""

from __future__ import annotations

from collections.abc import Mapping
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

# A soft-tissue window of CT, in HU (level 40, width 400), used where the image reaches air and bone.
_CT_WINDOW = (-160.0, 240.0)


def write_preview(
    labels: Integer[np.ndarray, "z y x"],
    intensities: Shaped[np.ndarray, "z y x"],
    names: Mapping[int, str],
    grid: Grid,
    target: Path | str,
    title: str = "",
) -> None:
    """Draws an axial, a coronal and a sagittal slice with coloured overlays and a legend.

    Each slice is the one with the most different classes, and the largest labelled area among those. The patient is
    shown as radiologists expect: head up, patient's right on the left side of the picture.

    Args:
        labels: ``(z, y, x)``.
        intensities: The image ``(z, y, x)``.
        names: Class name of every integer but 0.
        grid: Where the voxels lie.
        target: The PNG file.
        title: Text above the picture.
    """
    # The object interface draws without the global state of pyplot, so that several threads may draw at once.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    label_volume, image_volume, spacing = _in_patient_axes(labels, intensities, grid)
    colours = {value: np.array(colour) / 255 for value, colour in display_colours(names).items()}
    table = np.zeros((max(max(names, default=0), int(labels.max(initial=0))) + 1, 4))
    for value, colour in colours.items():
        table[value] = (*colour, _OPACITY)
    window = _window(intensities)

    views = ("axial", 0), ("coronal", 1), ("sagittal", 2)
    widths = [
        label_volume.shape[2] * spacing[2],
        label_volume.shape[2] * spacing[2],
        label_volume.shape[1] * spacing[1],
    ]
    figure = Figure(figsize=(15, 5), facecolor="black", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 4, width_ratios=[*widths, max(widths) * 0.6])
    counts = count_label_values(labels, len(table))
    richest = _richest_slices(label_volume, np.flatnonzero(counts[1:]) + 1)
    for plot, (name, axis), number in zip(axes, views, richest, strict=False):
        grey, overlay = (np.take(volume, number, axis) for volume in (image_volume, label_volume))
        plot.imshow(grey, cmap="gray", vmin=window[0], vmax=window[1], interpolation="bilinear")
        plot.imshow(table[overlay], interpolation="nearest")
        plot.axis("off")
        across = [size for number, size in enumerate(spacing) if number != axis]
        plot.set_aspect(across[0] / across[1])
        plot.set_title(name, color="white", fontsize=9)
    present = sorted((value for value in names if counts[value]), key=lambda value: -counts[value])
    patches = [Patch(color=tuple(colours[value]), label=names[value]) for value in present[:_LEGEND_ROWS]]
    if more := len(present) - len(patches):
        patches.append(Patch(color="none", label=f"and {more} smaller classes"))
    axes[3].axis("off")
    axes[3].legend(handles=patches, loc="center left", fontsize=7, frameon=False, labelcolor="white")
    figure.suptitle(title, color="white", fontsize=10)
    with atomic_path(target) as temporary:
        figure.savefig(temporary, format="png", dpi=100)


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


def _in_patient_axes(
    labels: Integer[np.ndarray, "z y x"], intensities: Shaped[np.ndarray, "z y x"], grid: Grid
) -> tuple[np.ndarray, np.ndarray, tuple[float, float, float]]:
    """Both volumes with the head at the top of the coronal slice, patient's left at the right, and their spacing."""
    if grid.dimension == 2:
        across = max(grid.spacing)
        return labels, intensities, (across, grid.spacing[1], grid.spacing[0])
    # Rows run from head to foot and from front to back, columns to the patient's left: left, posterior, inferior.
    turn = AxisTurn.to("LPI", grid)
    return turn.forward(labels), turn.forward(intensities), turn.reorder(grid.spacing[::-1])


def _window(intensities: Shaped[np.ndarray, "z y x"]) -> tuple[float, float]:
    """Black and white level: the soft-tissue window for what looks like HU, else the 1st and 99th percentile."""
    sample = intensities.ravel()[:: max(1, intensities.size // 1_000_000)]
    low, high = (float(value) for value in np.percentile(sample, (1, 99)))
    if low < -500 and high < 4000:
        return _CT_WINDOW
    return low, max(high, low + 1e-6)
