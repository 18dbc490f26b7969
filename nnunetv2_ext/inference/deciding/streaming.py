"""Joins the streaming sliding window and the export: finished planes become labels while others are predicted.

An output plane lies between two planes of logits at most. Of every slab one plane is kept, for the output planes
between it and the next slab; nothing else of the slab outlives it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nnunetv2_ext.inference.deciding.resample import argmax_along_axes, probabilities_along_axes, threshold_along_axes
from nnunetv2_ext.inference.deciding.resampled_axis import Axes, resampled_axes
from nnunetv2_ext.inference.windows.sliding_window import LogitSlab


@dataclass(frozen=True)
class Piece:
    """A part of the output and all logits that it depends on.

    Attributes:
        logits: Float (classes, z, y, x). A view: valid until the next piece is asked for.
        axes: How to resample them, for the functions ``*_along_axes`` of `inference.export`.
        outputs: Where the result belongs in the output (z, y, x).
    """

    logits: Float[Tensor, "classes z y x"]
    axes: Axes
    outputs: tuple[slice, slice, slice]


def pieces(
    slabs: Iterable[LogitSlab], shape: Sequence[int], new_shape: Sequence[int], nearest_axis: int | None = None
) -> Iterator[Piece]:
    """Cuts the resampling of a volume into the parts that its slabs, as they come, suffice for.

    Args:
        slabs: Logits of all planes, each once and in order.
        shape: Shape (z, y, x) of all logits.
        new_shape: Shape (z, y, x) of the output.
        nearest_axis: See `resampled_axis.separate_axis`.

    Raises:
        ValueError: The slabs do not follow each other, or end before the volume does.
    """
    axes = resampled_axes(shape, new_shape, nearest_axis)
    next_plane = done = 0
    complete = False
    last_plane: Tensor | None = None
    for slab in slabs:
        along, start, stop = slab.axis, slab.start, slab.stop
        if start != next_plane:
            raise ValueError(f"Expected the slab that starts at plane {next_plane}, but got planes {start} to {stop}.")
        axis = axes[along]
        ready = int(np.searchsorted(axis.upper, stop))
        between = min(max(int(np.searchsorted(axis.lower, start)), done), ready)
        if done < between:
            assert last_plane is not None
            pair = torch.cat([last_plane, slab.logits.narrow(along + 1, 0, 1)], along + 1)
            yield _piece(pair, axes, along, slice(start - 1, start + 1), slice(done, between))
        if between < ready:
            yield _piece(slab.logits, axes, along, slice(start, stop), slice(between, ready))
        last_plane = None
        if ready < axis.new_size and axis.lower[ready] < stop:
            last_plane = slab.logits.narrow(along + 1, stop - 1 - start, 1).clone()
        next_plane, done, complete = stop, ready, stop == axis.size
    if not complete:
        raise ValueError(f"Expected slabs of all planes of a volume {tuple(shape)}, but they end at {next_plane}.")


def stream_argmax(
    slabs: Iterable[LogitSlab],
    shape: Sequence[int],
    new_shape: Sequence[int],
    *,
    nearest_axis: int | None = None,
    num_threads: int | None = None,
) -> Int[Tensor, "Z Y X"]:
    """`export.resample_argmax` of logits that come in slabs.

    Args:
        slabs: Logits of all planes, each once and in order.
        shape: Shape (z, y, x) of all logits.
        new_shape: Shape (z, y, x) of the label map.
        nearest_axis: See `resampled_axis.separate_axis`.
        num_threads: Threads on a CPU; torch's number of threads by default.

    Returns:
        The label map, on the CPU.
    """
    parts = pieces(slabs, shape, new_shape, nearest_axis)
    return _assemble(parts, new_shape, lambda piece: argmax_along_axes(piece.logits, piece.axes, num_threads))


def stream_threshold(
    slabs: Iterable[LogitSlab],
    shape: Sequence[int],
    new_shape: Sequence[int],
    regions_class_order: Sequence[int],
    *,
    threshold: float = 0.0,
    nearest_axis: int | None = None,
    num_threads: int | None = None,
) -> Int[Tensor, "Z Y X"]:
    """`export.resample_threshold` of logits that come in slabs; arguments as there and in `stream_argmax`."""
    parts = pieces(slabs, shape, new_shape, nearest_axis)
    order = tuple(regions_class_order)
    return _assemble(
        parts, new_shape, lambda piece: threshold_along_axes(piece.logits, piece.axes, order, threshold, num_threads)
    )


def stream_masks(
    slabs: Iterable[LogitSlab],
    shape: Sequence[int],
    new_shape: Sequence[int],
    *,
    threshold: float = 0.0,
    nearest_axis: int | None = None,
    num_threads: int | None = None,
) -> Iterator[tuple[int, tuple[slice, slice, slice], Bool[Tensor, "Z Y X"]]]:
    """Parts of the mask of each region, overlaps kept: (region, where in the output, mask on the CPU).

    Arguments as in `stream_threshold`.
    """
    for piece in pieces(slabs, shape, new_shape, nearest_axis):
        for region, logits in enumerate(piece.logits.split(1)):
            mask = threshold_along_axes(logits, piece.axes, (1,), threshold, num_threads)
            yield region, piece.outputs, mask.view(torch.bool).cpu()


def stream_probabilities(
    slabs: Iterable[LogitSlab],
    shape: Sequence[int],
    new_shape: Sequence[int],
    *,
    has_regions: bool,
    classes: Sequence[int] | None = None,
    nearest_axis: int | None = None,
    num_threads: int | None = None,
) -> Iterator[tuple[tuple[slice, slice, slice], Float[Tensor, "chosen Z Y X"]]]:
    """Parts of `export.resample_probabilities`: (where in the output, probabilities); arguments as there."""
    for piece in pieces(slabs, shape, new_shape, nearest_axis):
        yield piece.outputs, probabilities_along_axes(piece.logits, piece.axes, has_regions, classes, num_threads)


def _assemble(
    parts: Iterable[Piece], new_shape: Sequence[int], decide: Callable[[Piece], Tensor]
) -> Int[Tensor, "Z Y X"]:
    result: Tensor | None = None
    for piece in parts:
        labels = decide(piece)
        if result is None:
            result = torch.empty(tuple(new_shape), dtype=labels.dtype)
        result[piece.outputs] = labels.cpu()
    assert result is not None
    return result


def _piece(logits: Tensor, axes: Axes, along: int, inputs: slice, outputs: slice) -> Piece:
    parts, where = list(axes), [slice(0, axis.new_size) for axis in axes]
    parts[along] = axes[along].part(inputs, outputs)
    where[along] = outputs
    return Piece(logits, (parts[0], parts[1], parts[2]), (where[0], where[1], where[2]))
