"""A picture of held-out patients: CT, reference and prediction side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nnunetv2_ext.images.reading import read_volume
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# The soft-tissue window of abdominal CT, in HU.
_WINDOW = (-160.0, 240.0)
_PANEL_INCHES = 3.2


def save_overlay(
    cases: Sequence[tuple[Path, Path, Path]], class_values: dict[str, int], target: Path, title: str
) -> None:
    """Draws one row per case: CT, reference and prediction, each in an axial and a coronal slice.

    Args:
        cases: (image, reference, prediction) per case, files of any format.
        class_values: Class name to label value; 0 is left transparent.
        target: PNG file.
        title: Written above.

    Raises:
        UserError: A prediction does not lie on the grid of its image.
    """
    import matplotlib

    # No window is to open, and none can where there is no display.
    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    colors = ListedColormap(pyplot.get_cmap("tab10").colors[: len(class_values)])
    figure, axes = pyplot.subplots(
        len(cases), 6, figsize=(6 * _PANEL_INCHES, len(cases) * _PANEL_INCHES + 1), squeeze=False
    )
    values = list(class_values.values())
    for row, (image_file, reference_file, prediction_file) in zip(axes, cases, strict=True):
        scan = read_volume(image_file)
        image, spacing = scan.array, scan.grid.spacing[::-1]
        maps = {"reference": read_volume(reference_file).array, "prediction": read_volume(prediction_file).array}
        for name, label_map in maps.items():
            if label_map.shape != image.shape:
                raise UserError(
                    f"Expected a {name} of shape {image.shape} for {image_file}, but it has {label_map.shape}."
                )
        for column, view in enumerate(_views(maps["reference"])):
            aspect = 1.0 if view[0] is not Ellipsis and isinstance(view[0], int) else spacing[0] / spacing[2]
            for offset, name in enumerate(("CT", "reference", "prediction")):
                panel: Axes = row[3 * column + offset]
                panel.imshow(image[view], cmap="gray", vmin=_WINDOW[0], vmax=_WINDOW[1], aspect=aspect)
                if name != "CT":
                    ranks = np.searchsorted(values, maps[name][view]).astype(float)
                    ranks[maps[name][view] == 0] = np.nan
                    panel.imshow(
                        ranks,
                        cmap=colors,
                        vmin=-0.5,
                        vmax=len(values) - 0.5,
                        alpha=0.55,
                        aspect=aspect,
                        interpolation="nearest",
                    )
                panel.set_title(f"{image_file.name.removesuffix('_0000.nii.gz')}: {name}" if offset == 0 else name)
                panel.axis("off")
    figure.legend(
        handles=[Patch(color=colors(rank), label=name) for rank, name in enumerate(class_values)],
        loc="lower center",
        ncol=len(class_values),
    )
    figure.suptitle(title)
    figure.tight_layout(rect=(0, 0.05, 1, 1))
    with atomic_path(target) as temporary:
        figure.savefig(temporary, dpi=80)
    pyplot.close(figure)


def _views(reference: np.ndarray) -> list[tuple[Any, ...]]:
    """The axial and the coronal slice with the most classes, and among those with the most annotated voxels."""
    views: list[tuple[Any, ...]] = []
    for axis in (0, 1):
        slices = np.moveaxis(reference, axis, 0)
        best = max(range(len(slices)), key=lambda i: (len(np.unique(slices[i])), np.count_nonzero(slices[i])))
        # Coronal slices are stored feet first; a radiologist sees the head on top.
        views.append((best,) if axis == 0 else (slice(None, None, -1), best))
    return views
