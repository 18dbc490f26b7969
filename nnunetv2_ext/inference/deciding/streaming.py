"""Cuts the resampling of a volume into pieces, so that finished planes are decided while others are predicted.

An output plane lies between two planes of logits at most. Of every slab one plane is kept, for the output planes
between it and the next slab; nothing else of the slab outlives it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nnunetv2_ext.inference.deciding.axes import Axes, resampled_axes
from nnunetv2_ext.inference.windows.ring import LogitSlab


@dataclass(frozen=True)
class Piece:
    """A part of the output and all logits that it depends on.

    Attributes:
        logits: Float (classes, z, y, x). A view: valid until the next slab comes.
        axes: How to resample them, for `resample.label_map`.
        along: The axis that the output is cut along; it spans the others.
        outputs: Where the result belongs in the output (z, y, x).
    """

    logits: Float[Tensor, "classes z y x"]
    axes: Axes
    along: int
    outputs: tuple[slice, slice, slice]


class Pieces:
    """The parts of the resampling of a volume that its slabs, as they come, suffice for.

    Args:
        shape: Shape (z, y, x) of all logits.
        new_shape: Shape (z, y, x) of the output.
        nearest_axis: See `axes.separate_axis`.
    """

    def __init__(self, shape: Sequence[int], new_shape: Sequence[int], nearest_axis: int | None = None) -> None:
        self._axes = resampled_axes(shape, new_shape, nearest_axis)
        self._shape = tuple(shape)
        self._next_plane = self._done = 0
        self._last_plane: Tensor | None = None
        self._complete = False

    def of(self, slab: LogitSlab) -> Iterator[Piece]:
        """What a slab, and the last plane of the one before, make known.

        Args:
            slab: The planes that follow those of the slab before.

        Raises:
            ValueError: The slabs do not follow each other.
        """
        along, start, stop = slab.axis, slab.start, slab.stop
        if start != self._next_plane:
            raise ValueError(
                f"Expected the slab that starts at plane {self._next_plane}, but got planes {start} to {stop}."
            )
        axis = self._axes[along]
        ready = int(np.searchsorted(axis.upper, stop))
        between = min(max(int(np.searchsorted(axis.lower, start)), self._done), ready)
        if self._done < between:
            assert self._last_plane is not None
            pair = torch.cat([self._last_plane, slab.logits.narrow(along + 1, 0, 1)], along + 1)
            yield self._piece(pair, along, slice(start - 1, start + 1), slice(self._done, between))
        if between < ready:
            yield self._piece(slab.logits, along, slice(start, stop), slice(between, ready))
        self._last_plane = None
        if ready < axis.new_size and axis.lower[ready] < stop:
            self._last_plane = slab.logits.narrow(along + 1, stop - 1 - start, 1).clone()
        self._next_plane, self._done, self._complete = stop, ready, stop == axis.size

    def refuse_missing(self) -> None:
        """Raises a ValueError where the slabs ended before the volume did."""
        if not self._complete:
            raise ValueError(
                f"Expected slabs of all planes of a volume {self._shape}, but they end at {self._next_plane}."
            )

    def _piece(self, logits: Tensor, along: int, inputs: slice, outputs: slice) -> Piece:
        parts, where = list(self._axes), [slice(0, axis.new_size) for axis in self._axes]
        parts[along] = self._axes[along].part(inputs, outputs)
        where[along] = outputs
        return Piece(logits, (parts[0], parts[1], parts[2]), along, (where[0], where[1], where[2]))
