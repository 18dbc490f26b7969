"""Metrics of one case: every class of a label map against its reference.

Where both masks are empty, nothing can be measured, and every ratio and distance is NaN, as nnU-Net does for Dice.
Where one of them is empty, the overlap is 0 (Dice, IoU, surface Dice), a ratio by zero is NaN (precision without
prediction, recall without reference), and there is no distance (NaN): a mean of HD95 says nothing about objects that
were missed or invented, so their number is reported beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nnunetv2_ext.evaluation.surface import SurfaceDistances, surface_points
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.label_counts import count_label_values

SURFACE_DICE_TOLERANCES_MM = (1, 2, 3)
#: Tolerance of ``SurfaceDice`` where the class has none of its own.
DEFAULT_TOLERANCE_MM = 2.0

COUNTS = ("TP", "FP", "FN", "TN", "n_pred", "n_ref")
OVERLAPS = ("Dice", "IoU", "Precision", "Recall")
DISTANCES = ("HD95", "MeanSurfaceDistance", *(f"SurfaceDice{mm}mm" for mm in SURFACE_DICE_TOLERANCES_MM), "SurfaceDice")
VOLUMES = ("VolumeError", "RelativeVolumeError")
LESIONS = ("LesionsDetected", "LesionsMissed", "LesionsInvented")
METRICS = (*OVERLAPS, *DISTANCES, *VOLUMES, *LESIONS, *COUNTS)


@dataclass(frozen=True)
class ScoredClass:
    """One class.

    Attributes:
        name: What the user calls it.
        key: Key in nnU-Net's summary.json: the label value, or the tuple of them, as text.
        reference: Its label values in the reference.
        prediction: Its label values in the prediction, once they are known.
        predicted_as: Names of the classes of the prediction whose union it is compared with.
        wanted: Whether it is scored; it may tell others apart all the same.
        tolerance: mm, of its ``SurfaceDice``.
        lesions: Whether its connected components are counted.
    """

    name: str
    key: str
    reference: tuple[int, ...]
    prediction: tuple[int, ...] = ()
    predicted_as: tuple[str, ...] = ()
    wanted: bool = True
    tolerance: float = DEFAULT_TOLERANCE_MM
    lesions: bool = False


def evaluate_label_map(
    reference: npt.NDArray[np.integer[Any]],
    prediction: npt.NDArray[np.integer[Any]],
    spacing: Sequence[float],
    classes: Sequence[ScoredClass],
    ignore_label: int | None = None,
) -> dict[str, dict[str, float]]:
    """All metrics of all classes of one case.

    Args:
        reference: Label map, shape (z, y, x) or (y, x).
        prediction: Label map of the same shape.
        spacing: Voxel size in mm along the axes of the arrays (z, y, x).
        classes: What to score.
        ignore_label: Voxels with this value in the reference count for nothing.

    Returns:
        `ScoredClass.key` -> metric -> value. ``HD95`` and ``MeanSurfaceDistance`` are in mm, ``VolumeError``
        (prediction minus reference) in ml, ``RelativeVolumeError`` as a fraction of the reference, counts in voxels;
        lesions are NaN where they are not counted.

    Raises:
        UserError: The shapes differ.
    """
    if reference.shape != prediction.shape:
        raise UserError(
            f"Expected the prediction to have the shape {reference.shape} of its reference, but found "
            f"{prediction.shape}; predict on the same image."
        )
    reference_index = _Index(value for scored in classes for value in scored.reference)
    prediction_index = _Index(value for scored in classes for value in scored.prediction)
    compact_reference = reference_index.compact(reference)
    compact_prediction = prediction_index.compact(prediction)
    if ignore_label is not None:
        ignored = reference == ignore_label
        # A row of its own in the table below takes the ignored voxels out of every count.
        compact_reference[ignored] = reference_index.size
        compact_prediction[ignored] = 0
    table = _contingency(compact_reference, compact_prediction, reference_index.size + 1, prediction_index.size)
    table = table[: reference_index.size]
    sides = [
        _Side(label_map, index.size, None if ignore_label is None else ignored)
        for label_map, index in ((compact_reference, reference_index), (compact_prediction, prediction_index))
    ]
    voxel_volume_ml = float(np.prod(spacing)) / 1000
    results: dict[str, dict[str, float]] = {}
    for scored in classes:
        selections = reference_index.selection(scored.reference), prediction_index.selection(scored.prediction)
        metrics = _overlap(table, *selections, voxel_volume_ml)
        there = metrics["n_ref"] > 0, metrics["n_pred"] > 0
        surfaces = [
            side.surface(selection, spacing) if occurs else None
            for side, selection, occurs in zip(sides, selections, there, strict=True)
        ]
        metrics |= _distances(surfaces[0], surfaces[1], scored.tolerance)
        metrics |= _lesions(sides, selections, there) if scored.lesions else dict.fromkeys(LESIONS, float("nan"))
        results[scored.key] = {name: metrics[name] for name in METRICS}
    return results


class _Index:
    """Numbers the label values of interest from 1; everything else is 0."""

    def __init__(self, values: Any) -> None:
        self._values = sorted(set(values) - {0})
        self.size = len(self._values) + 1

    def compact(self, label_map: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.unsignedinteger[Any]]:
        dtype = np.min_scalar_type(self.size)
        highest = max(self._values, default=0)
        table = np.zeros(highest + 2, dtype=dtype)
        table[self._values] = np.arange(1, self.size)
        # Values beyond the table, and nnU-Net's -1, address its last entry, which is 0.
        inside = (label_map >= 0) & (label_map <= highest)
        return table[np.where(inside, label_map, highest + 1)] if not inside.all() else table[label_map]

    def selection(self, values: Sequence[int]) -> npt.NDArray[np.bool_]:
        """Shape (size,): which of the numbers belong to a class."""
        selected = np.zeros(self.size, dtype=np.bool_)
        selected[[self._values.index(value) + 1 for value in values]] = True
        return selected


class _Side:
    """Reference or prediction, with the box around each label value, so that a class costs what its own box costs."""

    def __init__(
        self, label_map: npt.NDArray[np.unsignedinteger[Any]], size: int, ignored: npt.NDArray[np.bool_] | None
    ) -> None:
        from scipy import ndimage

        self._label_map = label_map
        self._ignored = ignored
        self._boxes = ndimage.find_objects(label_map, max_label=size - 1)

    def box(self, selection: npt.NDArray[np.bool_]) -> tuple[slice, ...]:
        """The box around the selected values, and the voxels that touch it."""
        boxes = [self._boxes[value - 1] for value in np.flatnonzero(selection) if self._boxes[value - 1] is not None]
        return tuple(
            slice(max(min(part.start for part in parts) - 1, 0), max(part.stop for part in parts) + 1)
            for parts in zip(*boxes, strict=True)
        )

    def inside(self, selection: npt.NDArray[np.bool_], box: tuple[slice, ...]) -> npt.NDArray[np.bool_]:
        """Which voxels of a box have one of the selected values."""
        # The ignored voxels carry a number beyond the selection.
        return np.append(selection, False)[np.minimum(self._label_map[box], len(selection))]

    def surface(self, selection: npt.NDArray[np.bool_], spacing: Sequence[float]) -> npt.NDArray[np.float64]:
        """Surface points of the union of the selected values, in mm."""
        box = self.box(selection)
        ignored = None if self._ignored is None else self._ignored[box]
        return surface_points(self.inside(selection, box), spacing, [part.start for part in box], ignored)

    def components(self, selection: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_], side: _Side) -> list[int]:
        """How many connected components (by faces, edges or corners) meet the other mask, and how many do not.

        One that touches ignored voxels may meet it there, and counts only where it is seen to.
        """
        from scipy import ndimage

        box = self.box(selection)
        neighbours = ndimage.generate_binary_structure(len(box), len(box))
        numbers, total = ndimage.label(self.inside(selection, box), neighbours)
        met = set(np.unique(numbers[side.inside(other, box)])) - {0}
        unknown = set[int]()
        if self._ignored is not None:
            unknown = set(np.unique(numbers[ndimage.binary_dilation(self._ignored[box], neighbours)])) - {0}
        return [len(met), total - len(met | unknown)]


def _contingency(
    reference: npt.NDArray[np.unsignedinteger[Any]],
    prediction: npt.NDArray[np.unsignedinteger[Any]],
    rows: int,
    columns: int,
) -> npt.NDArray[np.int64]:
    """Number of voxels for each pair of numbers; all overlaps of all classes are sums of its entries."""
    dtype = np.min_scalar_type(rows * columns)
    pairs = reference.astype(dtype) * dtype.type(columns) + prediction.astype(dtype)
    return count_label_values(pairs, rows * columns).reshape(rows, columns)


def _overlap(
    table: npt.NDArray[np.int64],
    reference: npt.NDArray[np.bool_],
    prediction: npt.NDArray[np.bool_],
    voxel_volume_ml: float,
) -> dict[str, float]:
    tp = int(table[np.ix_(reference, prediction)].sum())
    n_ref, n_pred = int(table[reference].sum()), int(table[:, prediction].sum())
    fp, fn = n_pred - tp, n_ref - tp
    return {
        "TP": tp,
        "FP": fp,
        "FN": fn,
        "TN": int(table.sum()) - tp - fp - fn,
        "n_pred": n_pred,
        "n_ref": n_ref,
        "Dice": _ratio(2 * tp, n_pred + n_ref),
        "IoU": _ratio(tp, tp + fp + fn),
        "Precision": _ratio(tp, n_pred),
        "Recall": _ratio(tp, n_ref),
        "VolumeError": (n_pred - n_ref) * voxel_volume_ml,
        "RelativeVolumeError": _ratio(n_pred - n_ref, n_ref),
    }


def _ratio(numerator: int, denominator: int) -> float:
    return numerator / denominator if denominator else float("nan")


def _distances(
    reference: npt.NDArray[np.float64] | None, prediction: npt.NDArray[np.float64] | None, tolerance: float
) -> dict[str, float]:
    nan = float("nan")
    tolerances = (*SURFACE_DICE_TOLERANCES_MM, tolerance)
    if reference is None or prediction is None:
        nothing_at_all = reference is None and prediction is None
        values = [nan, nan, *[nan if nothing_at_all else 0.0] * len(tolerances)]
    elif len(reference) and len(prediction):
        distances = SurfaceDistances.between(reference, prediction)
        values = [distances.hausdorff(95), distances.mean(), *map(distances.surface_dice, tolerances)]
    else:
        # All of a surface touches ignored voxels: nobody knows where it is.
        values = [nan] * len(DISTANCES)
    return dict(zip(DISTANCES, values, strict=True))


def _lesions(
    sides: Sequence[_Side], selections: Sequence[npt.NDArray[np.bool_]], there: Sequence[bool]
) -> dict[str, float]:
    """Components of the reference that a prediction meets or misses, and of the prediction where nothing is."""
    (reference, prediction), (in_reference, in_prediction) = sides, selections
    detected, missed = reference.components(in_reference, in_prediction, prediction) if there[0] else (0, 0)
    _, invented = prediction.components(in_prediction, in_reference, reference) if there[1] else (0, 0)
    return dict(zip(LESIONS, (detected, missed, invented), strict=True))
