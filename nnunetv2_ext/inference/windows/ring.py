"""Weighted sums of overlapping windows, of no more planes than later windows can still touch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from nnunetv2_ext.inference.windows.plan import Slices, WindowPlan, everywhere, replaced
from nnunetv2_ext.utilities.errors import UserError

# Torch converts tensors of mixed types as a whole before it adds them: so many numbers at once stay in a processor's
# cache (7 times as fast as a window of 32 classes and 96^3 voxels at once); an accelerator rather wants few launches.
_NUMBERS_AT_ONCE = {"cpu": 2**19, "cuda": 2**25}


@dataclass(frozen=True)
class LogitSlab:
    """Finished logits of a run of planes.

    Attributes:
        axis: The axis that the planes are counted along: 0 for z, 1 for y, 2 for x.
        start: The first plane.
        stop: One after the last plane.
        logits: (classes, z, y, x), of the type of the sums. A view of a buffer: valid until the next slab is asked for.
    """

    axis: int
    start: int
    stop: int
    logits: Float[Tensor, "classes z y x"]

    def of(self, volume: Float[Tensor, "classes z y x"]) -> Float[Tensor, "classes z y x"]:
        """The planes of a whole volume that the slab holds."""
        return volume.narrow(self.axis + 1, self.start, self.stop - self.start)


class Ring:
    """Weighted sums of the planes from ``first`` on; plane p lies at index p modulo the patch depth.

    Args:
        plan: Where the windows lie.
        folds: How many sums to keep, one per network.
        weights: Importance of the voxels of a window; the sums are kept where these are.
        fill: Logits of voxels that no window covers; the sums have their type.
    """

    def __init__(self, plan: WindowPlan, folds: int, weights: Float[Tensor, "z y x"], fill: Float[Tensor, " classes"]):
        self._plan = plan
        self._depth = plan.patch_size[plan.axis]
        self._first = 0
        self._of_window = weights
        self._fill = fill
        self._sums = fill.new_zeros((folds, len(fill), *plan.buffer_shape))
        self._weights = fill.new_zeros(plan.buffer_shape)

    def add(self, logits: Float[Tensor, "classes z y x"], position: tuple[int, int, int], fold: int) -> None:
        """Adds a window's logits to the sums of a fold."""
        for in_buffer, in_window in self._places(position):
            weights = self._of_window[in_window]
            _add_weighted(self._sums[fold][everywhere(in_buffer)], logits[everywhere(in_window)], weights)
            if fold == 0:
                self._weights[in_buffer] += weights.to(self._weights.dtype)

    def release(self, stop: int) -> Iterator[LogitSlab]:
        """Hands on the planes before ``stop`` and makes room for others.

        Raises:
            UserError: Sums in float16 overflow.
        """
        axis, inside = self._plan.axis, self._plan.inside
        for planes, where in self._pieces(self._first, stop):
            in_buffer = replaced((slice(None),) * 3, axis, where)
            place = (slice(None), *everywhere(in_buffer))
            sums, weights = self._sums[place], self._weights[in_buffer]
            start, end = max(planes.start, inside[axis].start), min(planes.stop, inside[axis].stop)
            if start < end:
                logits = self._finish(sums, weights)
                kept = replaced(inside, axis, slice(start - planes.start, end - planes.start))
                offset = inside[axis].start
                yield LogitSlab(axis, start - offset, end - offset, logits[everywhere(kept)])
            sums.zero_()
            weights.zero_()
        self._first = stop

    def _finish(
        self, sums: Float[Tensor, "folds classes z y x"], weights: Float[Tensor, "z y x"]
    ) -> Float[Tensor, "classes z y x"]:
        """Divides sums by their weights, in place, and averages the folds."""
        covered = weights > 0
        if bool(covered.all()):
            sums /= weights
        else:
            sums /= weights.masked_fill(~covered, 1)
            for of_fold in sums:
                for channel, value in zip(of_fold, self._fill, strict=True):
                    torch.where(covered, channel, value, out=channel)
        logits, *others = sums
        for other in others:
            logits += other
        return averaged(logits, len(sums))

    def _places(self, position: tuple[int, int, int]) -> Iterator[tuple[Slices, Slices]]:
        """Where the parts of a window lie in the ring and in the window."""
        axis, start = self._plan.axis, position[self._plan.axis]
        for planes, where in self._pieces(start, start + self._depth):
            in_buffer = replaced(self._plan.window(position), axis, where)
            in_window = replaced(self._plan.window((0, 0, 0)), axis, slice(planes.start - start, planes.stop - start))
            yield in_buffer, in_window

    def _pieces(self, start: int, stop: int) -> Iterator[tuple[slice, slice]]:
        """Runs of planes and where they lie in the ring; two where they pass its end."""
        while start < stop:
            index = start % self._depth
            length = min(stop - start, self._depth - index)
            yield slice(start, start + length), slice(index, index + length)
            start += length


def averaged(sums: Float[Tensor, "classes z y x"], folds: int) -> Float[Tensor, "classes z y x"]:
    """The mean of the logits of folds that were added up, in place.

    Raises:
        UserError: They are beyond float16.
    """
    if folds > 1:
        # By a tensor: on CUDA torch multiplies by the reciprocal of a number, which rounds otherwise than nnU-Net's
        # division on the CPU.
        sums /= sums.new_tensor(folds)
    if sums.dtype == torch.float16 and bool(torch.isinf(torch.stack([sums.amax(), sums.amin()])).any()):
        raise UserError(
            "Expected logits whose weighted sums float16 can hold (up to 65504), as nnUNetv2_predict does, but they "
            "exceed it; add windows up in float32 (--sums float32)."
        )
    return sums


def _add_weighted(
    sums: Float[Tensor, "classes z y x"], logits: Float[Tensor, "classes z y x"], weights: Float[Tensor, "z y x"]
) -> None:
    """Adds weighted logits to sums, in place."""
    if sums.dtype == torch.float32:
        sums.addcmul_(logits, weights)
        return
    # As nnU-Net: the product is rounded to the type of the logits (float32, on CUDA float16), then the sum to float16.
    at_once = max(1, _NUMBERS_AT_ONCE["cuda" if sums.device.type == "cuda" else "cpu"] // weights.numel())
    for some, values in zip(sums.split(at_once), logits.split(at_once), strict=True):
        some += (values * weights).to(values.dtype)
