"""Overlapping masks as one label map, and back, without loss.

An *atom* is a combination of classes that occurs at some voxel: the aorta alone, or the aorta together with its true
lumen. Every atom is one label value, and every class is the list of the atoms that contain it, which is what nnU-Net
calls a region. Any overlap can be expressed, nested or not.

The value of "class ``k`` alone" is always ``k + 1``, whether it occurs or not; combinations of several classes follow.
So the values of the classes do not change when further cases bring further combinations, and they serve as nnU-Net's
``regions_class_order``.

A dataset needs one table for all its cases:

Example:
    >>> import numpy as np
    >>> aorta, lumen = np.array([0, 1, 1, 1]), np.array([0, 0, 1, 0])
    >>> encoded = encode_masks([aorta, lumen])  # once for every case
    >>> table = AtomTable(["aorta", "lumen"], encoded.voxels())  # all cases: add their voxels() in a Counter
    >>> table.relabel(encoded)
    array([0, 1, 3, 1], dtype=uint8)
    >>> table.labels_json()
    {'background': 0, 'aorta': [1, 3], 'lumen': [2, 3]}
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.label_counts import count_label_values

Combination = tuple[int, ...]


@dataclass(frozen=True)
class EncodedMasks:
    """Masks of one case, as a label map whose values have a meaning only within this case.

    Attributes:
        label_map: Integers of the smallest sufficient type, shape of the masks.
        combinations: ``combinations[value]`` is the ascending tuple of the indices of the masks that cover the voxels
            of this value; ``combinations[0]`` is ``()``, the background.
        counts: Number of voxels of each value.
    """

    label_map: npt.NDArray[np.unsignedinteger[Any]]
    combinations: tuple[Combination, ...]
    counts: tuple[int, ...]

    def voxels(self) -> dict[Combination, int]:
        """Number of voxels of each combination, the background left out."""
        return {
            combination: count for combination, count in zip(self.combinations, self.counts, strict=True) if combination
        }


def encode_masks(masks: Iterable[npt.NDArray[Any]]) -> EncodedMasks:
    """Encodes overlapping masks; reads one at a time, so that a generator of 117 masks needs the memory of one.

    Args:
        masks: Arrays of equal shape; every voxel that is not 0 is inside.

    Raises:
        UserError: There are no masks, or their shapes differ.
    """
    codes: npt.NDArray[np.unsignedinteger[Any]] | None = None
    combinations: list[Combination] = [()]
    for index, array in enumerate(masks):
        mask = array if array.dtype == np.bool_ else array != 0
        if codes is None:
            codes = np.zeros(mask.shape, dtype=np.uint8)
        if mask.shape != codes.shape:
            raise UserError(
                f"Expected all masks of a case to have the shape {codes.shape}, but mask {index + 1} has {mask.shape}."
            )
        inside = codes[mask]
        table = np.arange(len(combinations))
        for code in np.flatnonzero(count_label_values(inside, len(combinations))):
            table[code] = len(combinations)
            combinations.append((*combinations[code], index))
        codes = codes.astype(np.min_scalar_type(len(combinations) - 1), copy=False)
        codes[mask] = table[inside]
    if codes is None:
        raise UserError("Expected at least one mask to encode, but got none.")
    return _drop_unused(codes, combinations)


class AtomTable:
    """The label values of all combinations that occur in a dataset.

    Args:
        class_names: One name per mask, in the order in which the masks are encoded.
        voxels: Number of voxels of each combination that occurs in any case. Add up the cases with a
            `collections.Counter`.

    Attributes:
        class_names: As given.
        combinations: ``combinations[value]`` is the tuple of the class indices that the label value stands for: the
            background, every class alone, then the occurring combinations of several classes, smallest first.
    """

    def __init__(self, class_names: Sequence[str], voxels: Mapping[Combination, int]) -> None:
        self.class_names = tuple(class_names)
        if len(set(self.class_names)) != len(self.class_names):
            raise UserError(f"Expected every class name once, but got {', '.join(self.class_names)}.")
        alone = [(index,) for index in range(len(self.class_names))]
        several = sorted((c for c in voxels if len(c) > 1), key=lambda combination: (len(combination), combination))
        self.combinations: tuple[Combination, ...] = ((), *alone, *several)
        self._value_of = {combination: value for value, combination in enumerate(self.combinations)}
        self._size = [0] * len(self.class_names)
        for combination, count in voxels.items():
            for index in combination:
                self._size[index] += count

    @property
    def has_overlaps(self) -> bool:
        """Whether any two classes share a voxel."""
        return len(self.combinations) > len(self.class_names) + 1

    def relabel(self, encoded: EncodedMasks) -> npt.NDArray[np.unsignedinteger[Any]]:
        """The label map of one case with the values of this table.

        Returns:
            The smallest unsigned integer type that holds every value of the table, shape of the masks.

        Raises:
            UserError: The case has a combination that the table does not know.
        """
        unknown = [combination for combination in encoded.combinations if combination not in self._value_of]
        if unknown:
            names = [" + ".join(self.class_names[index] for index in combination) for combination in unknown]
            raise UserError(
                f"The overlap(s) {', '.join(names)} are not in the table; collect them from all cases first."
            )
        values = [self._value_of[combination] for combination in encoded.combinations]
        return np.array(values, dtype=np.min_scalar_type(len(self.combinations) - 1))[encoded.label_map]

    def regions(self) -> dict[str, list[int]]:
        """Class name -> label values that contain it, ascending; classes that contain others come first.

        nnU-Net paints its outputs one over the other in this order, so what lies inside stays visible.
        """
        values: list[list[int]] = [[] for _ in self.class_names]
        for value, combination in enumerate(self.combinations):
            for index in combination:
                values[index].append(value)
        return {self.class_names[index]: values[index] for index in self._outer_first()}

    def labels_json(self, always_regions: bool = False) -> dict[str, Any]:
        """The ``labels`` section of a dataset.json.

        Args:
            always_regions: Write ``[3, 3]`` instead of ``3``, so that every class has its own sigmoid output even
                where no classes overlap (otherwise such a dataset stays a plain one).
        """
        as_regions = always_regions or self.has_overlaps
        labels: dict[str, Any] = {"background": 0}
        for name, values in self.regions().items():
            labels[name] = values if len(values) > 1 else [values[0], values[0]] if as_regions else values[0]
        return labels

    def regions_class_order(self) -> list[int]:
        """The value that nnU-Net paints each class with, in the order of `regions`: the class alone."""
        return [index + 1 for index in self._outer_first()]

    def _outer_first(self) -> list[int]:
        """Class indices in the given order, but of two that overlap the larger one first.

        What contains another is larger; size also decides well where the inner one sticks out by a few voxels.
        """
        larger: list[set[int]] = [set() for _ in self.class_names]
        for combination in self.combinations:
            for index in combination:
                larger[index].update(other for other in combination if self._size[other] > self._size[index])
        smaller: list[list[int]] = [[] for _ in self.class_names]
        for index, others in enumerate(larger):
            for other in others:
                smaller[other].append(index)
        order: list[int] = []
        free = [index for index, others in enumerate(larger) if not others]
        while free:
            index = heapq.heappop(free)
            order.append(index)
            for other in smaller[index]:
                larger[other].discard(index)
                if not larger[other]:
                    heapq.heappush(free, other)
        return order


def _drop_unused(codes: npt.NDArray[np.unsignedinteger[Any]], combinations: list[Combination]) -> EncodedMasks:
    """Renumbers without the combinations that later masks have split up completely."""
    counts = count_label_values(codes, len(combinations))
    used = [code for code in range(len(combinations)) if code == 0 or counts[code]]
    table = np.zeros(len(combinations), dtype=np.min_scalar_type(len(used) - 1))
    table[used] = np.arange(len(used))
    return EncodedMasks(
        table[codes], tuple(combinations[code] for code in used), tuple(int(counts[code]) for code in used)
    )
