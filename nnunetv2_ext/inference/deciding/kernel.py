"""The innermost loop of the export: interpolate the classes of one tile one after the other and keep who is ahead.

Least work per class and voxel: one multiplication and addition, one comparison. Whole-array operations write and read
the interpolated values several times over; compiled by numba, the loop leaves them in the first-level cache, needs no
array beside the result, and two threads take half the time of one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import boolean, float32, float64, int32, njit, types, uint32

_logger = logging.getLogger(__name__)


def _compile(signatures: list[Any]) -> Callable[[Callable[..., Any]], Any]:
    """Compiles when the module is loaded, so that threads find finished code; keeps the code for the next run."""

    def decorate(function: Callable[..., Any]) -> Any:
        try:
            return njit(signatures, cache=True, nogil=True)(function)
        except RuntimeError as error:
            # numba finds no folder that it may write to, as in some containers.
            _logger.debug("Compiling without a cache: %s", error)
            return njit(signatures, nogil=True)(function)

    return decorate


# Unsigned: for signed indices, numba would look out for those that count from the end.
_INDICES = types.Array(uint32, 1, "C")


def _signature(precision: Any) -> Any:
    return types.Array(int32, 3, "C")(
        types.Array(float32, 4, "C"),
        _INDICES,
        types.Array(int32, 1, "C"),
        types.UniTuple(_INDICES, 3),
        types.UniTuple(_INDICES, 3),
        types.UniTuple(types.Array(precision, 1, "C"), 3),
        float32,
        boolean,
        int32,
        boolean,
    )


@njit(nogil=True)
def _interpolate(lower: np.ndarray, upper: np.ndarray, weight: float, result: np.ndarray) -> None:
    for i in range(len(result)):
        result[i] = (np.float32(1) - weight) * lower[i] + weight * upper[i]


@njit(nogil=True)
def _round_to_float16(values: np.ndarray) -> None:
    """Rounds to the nearest float16 number, to the even one of two; values must lie in its range."""
    for i in range(len(values)):
        value = np.float64(values[i])
        bits = value.view(np.int64)
        # 42 of the 52 bits of a float64 fraction have no place in float16. (By way of float32, two roundings would
        # make ties of what is none.)
        normal = np.int64((bits + (2**41 - 1) + ((bits >> 42) & 1)) & -(2**42)).view(np.float64)
        # Below 2^-14 float16 numbers are multiples of 2^-24, as float64 numbers from 2^28 to 2^29 are.
        magnitude = abs(value)
        subnormal = (magnitude + 2.0**28) - 2.0**28
        if magnitude < 2.0**-14:
            values[i] = -subnormal if value < 0 else subnormal
        else:
            values[i] = normal


@njit(nogil=True)
def _overtake(values: np.ndarray, best: np.ndarray, labels: np.ndarray, label: int, raises_the_bar: bool) -> None:
    for i in range(len(values)):
        # Each number is read once, before anything is written: only then does the compiler vectorise.
        value, bar, old = values[i], best[i], labels[i]
        ahead = value > bar
        labels[i] = label if ahead else old
        best[i] = value if ahead and raises_the_bar else bar


@_compile([_signature(float32), _signature(float64)])
def decide_tile(
    logits: np.ndarray,
    classes: np.ndarray,
    labels_of_classes: np.ndarray,
    lower: tuple[np.ndarray, np.ndarray, np.ndarray],
    upper: tuple[np.ndarray, np.ndarray, np.ndarray],
    weight: tuple[np.ndarray, np.ndarray, np.ndarray],
    least: float,
    raises_the_bar: bool,
    otherwise: int,
    in_float16: bool,
) -> np.ndarray:
    """Labels of the voxels of a tile: a class whose interpolated logit exceeds the bar writes its label.

    Args:
        logits: Float32 (classes, z, y, x), finite.
        classes: Which classes to look at, in this order.
        labels_of_classes: Int32 (classes,): the label of every class.
        lower: For z, y and x: the lower of the two inputs of every output.
        upper: For z, y and x: the upper one.
        weight: For z, y and x: the share of the upper one. Values are interpolated in the type of these numbers,
            float32 or float64.
        least: The bar at the beginning.
        raises_the_bar: Whether whoever exceeds the bar sets it (the largest wins, among equals the first) or not (the
            last one above it wins).
        otherwise: The label of voxels where no class exceeds the bar.
        in_float16: Round what is interpolated (in float64) to float16 numbers.

    Returns:
        Int32 (Z, Y, X).
    """
    lower_z, lower_y, lower_x = lower
    upper_z, upper_y, upper_x = upper
    weight_z, weight_y, weight_x = weight
    depth, height = logits.shape[1:3]
    new_depth, new_height, new_width = len(lower_z), len(lower_y), len(lower_x)
    rows = np.empty((height, new_width), weight_x.dtype)
    planes = np.empty((depth, new_height * new_width), weight_x.dtype)
    values = np.empty(new_height * new_width, weight_x.dtype)
    best = np.full((new_depth, new_height * new_width), least, weight_x.dtype)
    labels = np.full((new_depth, new_height * new_width), otherwise, np.int32)
    for number in classes:
        for z in range(depth):
            for y in range(height):
                source, row = logits[number, z, y], rows[y]
                for x in range(new_width):
                    row[x] = (np.float32(1) - weight_x[x]) * source[lower_x[x]] + weight_x[x] * source[upper_x[x]]
            for y in range(new_height):
                # Indices rather than slices, whose counting of references would take longer than so short a row.
                front, back, share, start = lower_y[y], upper_y[y], weight_y[y], y * new_width
                for x in range(new_width):
                    planes[z, start + x] = (np.float32(1) - share) * rows[front, x] + share * rows[back, x]
        for z in range(new_depth):
            _interpolate(planes[lower_z[z]], planes[upper_z[z]], weight_z[z], values)
            if in_float16:
                _round_to_float16(values)
            _overtake(values, best[z], labels[z], labels_of_classes[number], raises_the_bar)
    return labels.reshape(new_depth, new_height, new_width)
