"""What is looked at while a case is converted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from nnunetv2_ext.dataset_conversion.findings import BadCaseError, Finding
from nnunetv2_ext.images.volumes import Volume
from nnunetv2_ext.labels.label_order import LabelOrder, LabelValue

# Centres of a pair that are less than this apart along the left-right axis (mm) say nothing about a swap.
_CLEARLY_APART = 2.0


@dataclass(frozen=True)
class TargetLabels:
    """What the integers of an nnU-Net dataset mean.

    Attributes:
        name: Where that is written.
        labels: Class -> its integer or integers.
        ignore_label: Integer of voxels that nobody annotated; None where there are none.
        left_right_pairs: (left, right) classes.
    """

    name: str
    labels: Mapping[str, LabelValue]
    ignore_label: int | None = None
    left_right_pairs: tuple[tuple[str, str], ...] = ()

    @property
    def highest(self) -> int:
        """The largest of all integers."""
        classes = (max(value) if isinstance(value, tuple) else value for value in self.labels.values())
        return max((*classes, self.ignore_label or 0))


@dataclass(frozen=True)
class LabelStatistics:
    """Voxels and centres of the integers in a label map, and what the image is under them.

    Attributes:
        voxels: Integer -> number of voxels, background included.
        left: Integer -> centre of mass along the patient's right-to-left axis, mm; without background.
        intensities: Integer -> mean of the image, where there is one; without background.
    """

    voxels: Mapping[int, int]
    left: Mapping[int, float]
    intensities: Mapping[int, float] = field(default_factory=dict)

    def translated(self, values: Mapping[int, Collection[int]]) -> LabelStatistics:
        """The same of a label map in other integers, of which a voxel may have several."""
        voxels: dict[int, int] = defaultdict(int)
        places: dict[int, float] = defaultdict(float)
        brightness: dict[int, float] = defaultdict(float)
        for value, count in self.voxels.items():
            for new in values[value]:
                voxels[new] += count
                places[new] += count * self.left.get(value, 0.0)
                brightness[new] += count * self.intensities.get(value, 0.0)
        return LabelStatistics(
            voxels,
            {value: places[value] / voxels[value] for value in voxels if value},
            {value: brightness[value] / voxels[value] for value in voxels if value and self.intensities},
        )


def label_statistics(label: Volume, image: Volume | None = None) -> LabelStatistics:
    """Counts the integers of a label map, finds their centres and the mean of an image under them, plane by plane.

    Args:
        label: Integers from 0 to 65535, (z, y, x).
        image: On the same grid.
    """
    array = label.array
    size, width = int(array.max(initial=0)) + 1, array.shape[-1]
    voxels = np.zeros(size, dtype=np.int64)
    places, brightness = np.zeros(size), np.zeros(size)
    per_x, per_y, per_z, start = label.grid.matrix[0]
    for z, plane in enumerate(array):
        flat = plane.reshape(-1)
        inside = np.flatnonzero(flat != 0)
        if not inside.size:
            continue
        values, y = flat[inside], inside // width
        voxels += np.bincount(values, minlength=size)
        # Where the voxels lie along the one axis that matters, so that one sum per integer is enough.
        left = per_x * (inside - y * width) + (per_y * y + (per_z * z + start))
        places += np.bincount(values, weights=left, minlength=size)
        if image is not None:
            brightness += np.bincount(values, weights=image.array[z].reshape(-1)[inside], minlength=size)
    present = [int(value) for value in np.flatnonzero(voxels)]
    voxels[0] = array.size - voxels.sum()
    return LabelStatistics(
        {value: int(voxels[value]) for value in ([0] if voxels[0] else []) + present},
        {value: float(places[value] / voxels[value]) for value in present},
        {} if image is None else {value: float(brightness[value] / voxels[value]) for value in present},
    )


def check_image(image: Volume, name: str) -> Iterator[Finding]:
    """NaN, infinity and constant images."""
    lowest, highest, broken = np.inf, -np.inf, 0
    for plane in image.array:
        finite = _finite(plane) if plane.dtype.kind == "f" else None
        if finite is not None and not finite.all():
            broken += int(plane.size - finite.sum())
            plane = plane[finite]
        if plane.size:
            lowest, highest = min(lowest, float(plane.min())), max(highest, float(plane.max()))
    if broken:
        yield Finding("not_a_number", f"Expected numbers in {name}, but {broken} voxels are NaN or infinite.")
    if highest <= lowest:
        yield Finding("constant_image", f"Expected an image in {name}, but all its voxels are {lowest:g}.")


def check_values(statistics: LabelStatistics, known: Collection[int], name: str) -> None:
    """Refuses integers that nothing is known of.

    Args:
        statistics: Of the label map.
        known: Integers that it may hold.
        name: Of the label order, or whatever else says so.

    Raises:
        BadCaseError: There are others.
    """
    strange = {value: count for value, count in statistics.voxels.items() if value not in known}
    if strange:
        listed = ", ".join(f"{value} ({count} voxels)" for value, count in list(strange.items())[:8])
        *first, last = map(str, sorted(known))
        shown = ", ".join([*first[:8], *(["..."] if first[8:] else []), last])
        raise BadCaseError(
            "unknown_values", f"Expected the integers of {name} ({shown}) in the label map, but found {listed}."
        )


def check_label(statistics: LabelStatistics, order: LabelOrder | TargetLabels) -> Iterator[Finding]:
    """Empty label maps, and left and right structures on the wrong side.

    Of every pair that is there, the left structure should lie further to the patient's left. If most pairs disagree the
    whole label map (or the patient axes in its header) is mirrored; if single ones do, these two names are swapped.
    """
    if not any(count for value, count in statistics.voxels.items() if value not in (0, order.ignore_label)):
        yield Finding("empty_label", "Expected at least one class in the label map, but it is empty.")
    right_way, wrong_way = 0, []
    for left, right in order.left_right_pairs:
        sides = [order.labels[name] for name in (left, right)]
        centres = [statistics.left.get(value) if isinstance(value, int) else None for value in sides]
        if centres[0] is None or centres[1] is None or abs(centres[0] - centres[1]) < _CLEARLY_APART:
            continue
        if centres[0] > centres[1]:
            right_way += 1
        else:
            wrong_way.append(left)
    if len(wrong_way) > right_way:
        yield Finding(
            "mirrored",
            f"Expected left structures on the patient's left, but {len(wrong_way)} of {len(wrong_way) + right_way} "
            f"pairs are the other way round ({', '.join(wrong_way[:4])}); the label map is mirrored.",
        )
    elif wrong_way:
        yield Finding(
            "pair_swapped", f"Expected left structures on the patient's left, but found {', '.join(wrong_way)} right."
        )


def implausible_class(label: Volume, image: Volume, order: LabelOrder) -> str:
    """Which class has a mean intensity that it cannot have, in words; empty where none has."""
    for name, (low, high) in order.plausible_intensities.items():
        inside = label.array == order.value(name)
        mean = float(image.array[inside].mean()) if inside.any() else low
        if not low <= mean <= high:
            return f"{name} with a mean of {low:g} to {high:g} HU, but it has {mean:.0f} HU"
    return ""


def different_grids(name: str, difference: str) -> BadCaseError:
    """The error of a label map or channel that does not lie on the image's grid."""
    return BadCaseError("grids_differ", f"Expected {name} on the grid of the image, but they have {difference}.")


def replace_non_finite(array: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """NaN and infinity become the smallest finite value."""
    finite = _finite(array)
    return np.where(finite, array, array[finite].min() if finite.any() else 0)


def _finite(array: npt.NDArray[np.floating]) -> npt.NDArray[np.bool_]:
    """Which voxels are finite in the type that networks compute with."""
    with np.errstate(over="ignore"):
        return np.isfinite(array.astype(np.float32, copy=False))
