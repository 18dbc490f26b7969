"""Adds windows up box by box, where nothing is resampled afterwards and a voxel's decision needs no neighbours.

Windows run row by row. After each one a box at its beginning lies in no later window: its sums are complete and handed
on, and only what it shares with later windows is kept: planes of the scan, rows of these planes, columns of a window.
With MONAI's overlap of a quarter these are a quarter of a window's depth, height and width (up to half of the depth,
and up to all of the others, where the last window is moved back inside the image), where `StreamingSlidingWindow.slabs`
keeps planes of a window's whole depth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations, product

from jaxtyping import Float
from torch import Tensor

from nnunetv2_ext.inference.windows.sliding_window import WindowPlan


@dataclass(frozen=True)
class FinishedBox:
    """Complete sums of a part of the padded image.

    Attributes:
        where: The part (z, y, x).
        sums: Float32 (classes, z, y, x), sums of weighted logits. A view: valid until the next box is asked for.
    """

    where: tuple[slice, slice, slice]
    sums: Float[Tensor, "classes z y x"]


@dataclass(frozen=True)
class _Step:
    """Windows along one axis that are added up at once, and the run of voxels that they finish."""

    starts: tuple[int, ...]
    stop: int
    finished: int

    @property
    def start(self) -> int:
        return self.starts[0]


def sweep(
    predict: Callable[[tuple[int, int, int]], Float[Tensor, "classes z y x"]],
    plan: WindowPlan,
    weights: Float[Tensor, "z y x"],
) -> Iterator[FinishedBox]:
    """Predicts all windows of an image and yields sums of their weighted logits, each voxel once.

    Args:
        predict: Logits of the window at a position (z, y, x) of the padded image; they are overwritten.
        plan: Where windows lie; its ``axis`` is not used.
        weights: Importance of the voxels of a window.
    """
    order = _least_memory(plan)
    planes, rows, columns = _steps_of(plan, order)
    shared_planes: dict[tuple[int, int], Tensor] = {}
    for of_planes in planes:
        shared_rows: dict[int, Tensor] = {}
        for row, of_rows in enumerate(rows):
            shared_columns: Tensor | None = None
            for column, of_columns in enumerate(columns):
                steps = (of_planes, of_rows, of_columns)
                sums = _predict_block(predict, plan, weights, order, steps)
                sums, shared_columns = _finish(sums, shared_columns, 3, of_columns)
                sums, kept = _finish(sums, shared_rows.pop(column, None), 2, of_rows)
                if kept is not None:
                    shared_rows[column] = kept
                sums, kept = _finish(sums, shared_planes.pop((row, column), None), 1, of_planes)
                if kept is not None:
                    shared_planes[row, column] = kept
                z, y, x = _back([slice(step.start, step.finished) for step in steps], order)
                yield FinishedBox((z, y, x), sums.permute(0, *(1 + axis for axis in _back(range(3), order))))
                # A window is to be gone before the network, which takes memory too, makes the next one.
                del sums, kept


def _predict_block(
    predict: Callable[[tuple[int, int, int]], Tensor],
    plan: WindowPlan,
    weights: Tensor,
    order: Sequence[int],
    steps: tuple[_Step, _Step, _Step],
) -> Float[Tensor, "classes planes rows columns"]:
    """Weighted logits of the windows of three steps, axes in the order of the sweep."""
    block: Tensor | None = None
    for starts in product(*(step.starts for step in steps)):
        z, y, x = _back(starts, order)
        window = predict((z, y, x)).mul_(weights).permute(0, *(1 + axis for axis in order))
        if all(len(step.starts) == 1 for step in steps):
            return window
        if block is None:
            block = window.new_zeros((len(window), *(step.stop - step.start for step in steps)))
        inside = [
            slice(start - step.start, start - step.start + plan.patch_size[axis])
            for start, step, axis in zip(starts, steps, order, strict=True)
        ]
        plane, row, column = inside
        block[:, plane, row, column] += window
        del window
    assert block is not None
    return block


def _finish(sums: Tensor, shared: Tensor | None, axis: int, step: _Step) -> tuple[Tensor, Tensor | None]:
    """Adds what was kept of the windows before; splits into what is finished along an axis and what is to be kept."""
    if shared is not None:
        sums.narrow(axis, 0, shared.shape[axis]).add_(shared)
    length = step.finished - step.start
    rest = sums.shape[axis] - length
    return sums.narrow(axis, 0, length), sums.narrow(axis, length, rest).clone() if rest else None


def _steps(starts: Sequence[int], size: int, extent: int, *, join: bool) -> list[_Step]:
    """One step per window, or two windows in one where they share more than half of their voxels.

    The last window of an image is moved inside and may share nearly all its voxels with the one before.
    """
    groups: list[tuple[int, ...]] = []
    for start in starts:
        if join and groups and len(groups[-1]) == 1 and start - groups[-1][0] < size / 2:
            groups[-1] = (*groups[-1], start)
        else:
            groups.append((start,))
    ends = [group[0] for group in groups[1:]] + [extent]
    return [_Step(group, group[-1] + size, end) for group, end in zip(groups, ends, strict=True)]


def _steps_of(plan: WindowPlan, order: Sequence[int]) -> list[list[_Step]]:
    """Steps along planes, rows and columns. Only planes are joined: the rest that they share is the largest."""
    return [
        _steps(plan.starts[axis], plan.patch_size[axis], plan.padded_shape[axis], join=axis == order[0])
        for axis in order
    ]


def _least_memory(plan: WindowPlan) -> tuple[int, ...]:
    """The order of axes (planes, rows, columns) that keeps the fewest voxels."""
    return min(permutations(range(3)), key=lambda order: _kept_voxels(plan, order))


def _kept_voxels(plan: WindowPlan, order: Sequence[int]) -> int:
    steps = _steps_of(plan, order)
    depth, height, width = (max(step.stop - step.start for step in along) for along in steps)
    shared = [max(step.stop - step.finished for step in along) for along in steps]
    _, all_rows, all_columns = (plan.padded_shape[axis] for axis in order)
    return (
        shared[0] * all_rows * all_columns
        + depth * shared[1] * all_columns
        + depth * height * shared[2]
        + depth * height * width
    )


def _back(values: Sequence, order: Sequence[int]) -> list:
    """Values in the order of the sweep, in the order (z, y, x)."""
    return [values[order.index(axis)] for axis in range(3)]
