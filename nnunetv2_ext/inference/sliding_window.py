"""Sliding-window prediction that holds only the planes later windows can still touch.

nnU-Net adds all windows of a scan into one array of (classes x scan) half-precision numbers. Here windows run plane by
plane along one axis; what no later window touches is divided by its weights and handed on at once, an idea of SALT's
(its "online argmax"). The sums are kept in a ring of (classes x patch depth x height x width) float32 numbers, however
long the scan, along the axis that makes this least. The windows, their Gaussian weights and the padding are nnU-Net's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class LogitSlab:
    """Finished logits of a run of planes.

    Attributes:
        axis: The axis that the planes are counted along: 0 for z, 1 for y, 2 for x.
        start: The first plane.
        stop: One after the last plane.
        logits: Float32 (classes, z, y, x). A view of a buffer: valid until the next slab is asked for.
    """

    axis: int
    start: int
    stop: int
    logits: Float[Tensor, "classes z y x"]


@dataclass(frozen=True)
class WindowPlan:
    """Where the windows of an image lie.

    Attributes:
        padded_shape: The image's shape (z, y, x) after padding to the patch size.
        inside: Where the image lies in the padded shape.
        patch_size: (z, y, x); the first is 1 for a network of two dimensions.
        starts: First voxel of the windows along each axis.
        axis: The axis along which finished planes are handed on.
    """

    padded_shape: tuple[int, int, int]
    inside: tuple[slice, slice, slice]
    patch_size: tuple[int, int, int]
    starts: tuple[list[int], list[int], list[int]]
    axis: int

    @property
    def num_windows(self) -> int:
        """How many windows the image takes, skipped ones included."""
        return prod(map(len, self.starts))

    @property
    def buffer_shape(self) -> tuple[int, int, int]:
        """Shape of the ring of planes."""
        return _with(self.padded_shape, self.axis, self.patch_size[self.axis])


class StreamingSlidingWindow:
    """Predicts an image window by window and hands finished planes on at once.

    Args:
        network: From windows (batch, channels, *patch) to logits (batch, classes, *patch). Averaging over folds and
            mirrored windows, and predicting selected classes only, is its business.
        num_classes: How many logits the network gives per voxel.
        patch_size: (z, y, x), or (y, x) for a network that predicts slice by slice.
        step_size: Distance of neighbouring windows as a share of the patch size.
        device: Where the network runs.
        accumulate_on: Where sums are kept; ``device`` by default.
        windows_per_batch: Windows of equal position along the axis that are predicted together.
        fill: Logits (classes,) of voxels that no predicted window covers. By default 10 for the first and -10 for all
            other classes, which is background for a softmax; give -10 for all with sigmoid outputs.
        axis: Along which axis to hand planes on; by default the one that needs the least memory.

    Example:
        >>> window = StreamingSlidingWindow(lambda x: x.repeat(1, 2, 1, 1, 1), 2, (4, 4, 4))
        >>> [(slab.start, slab.stop) for slab in window.slabs(torch.zeros(1, 8, 4, 4))]
        [(0, 2), (2, 4), (4, 8)]
    """

    def __init__(
        self,
        network: Callable[[Tensor], Tensor],
        num_classes: int,
        patch_size: Sequence[int],
        step_size: float = 0.5,
        *,
        device: torch.device | str = "cpu",
        accumulate_on: torch.device | str | None = None,
        windows_per_batch: int = 1,
        fill: Float[Tensor, " classes"] | None = None,
        axis: int | None = None,
    ) -> None:
        if len(patch_size) not in (2, 3) or not 0 < step_size <= 1 or windows_per_batch < 1:
            raise ValueError(
                f"Expected a patch size of two or three axes, a step size above 0 and up to 1, and at least one window "
                f"per batch, but got {tuple(patch_size)}, {step_size} and {windows_per_batch}."
            )
        self.network = network
        self.num_classes = num_classes
        self.patch_size = tuple(int(size) for size in patch_size)
        self.step_size = step_size
        self.device = torch.device(device)
        self.accumulate_on = torch.device(accumulate_on or device)
        self.windows_per_batch = windows_per_batch
        if fill is None:
            fill = torch.tensor([10.0] + [-10.0] * (num_classes - 1))
        self.fill = fill.to(self.accumulate_on, torch.float32)
        self.axis = axis

    def plan(self, shape: Sequence[int]) -> WindowPlan:
        """Lays out the windows of an image of shape (z, y, x), as nnU-Net does."""
        from nnunetv2.inference.sliding_window_prediction import compute_steps_for_sliding_window

        patch = self.patch_size if len(self.patch_size) == 3 else (1, *self.patch_size)
        padded = tuple(max(size, least) for size, least in zip(shape, patch, strict=True))
        # nnU-Net's `pad_nd_image` puts the smaller half of the padding first.
        inside = tuple(slice((new - old) // 2, (new - old) // 2 + old) for old, new in zip(shape, padded, strict=True))
        if len(self.patch_size) == 3:
            starts = compute_steps_for_sliding_window(padded, patch, self.step_size)
        else:
            starts = [
                list(range(padded[0])),
                *compute_steps_for_sliding_window(padded[1:], self.patch_size, self.step_size),
            ]
        axis = self.axis
        if axis is None:
            axis = min(range(3), key=lambda along: patch[along] / padded[along])
        return WindowPlan(_triple(padded), _triple(inside), _triple(patch), _triple(starts), axis)

    def slabs(
        self,
        image: Float[Tensor, "channels z y x"],
        content: Bool[Tensor, "z y x"] | None = None,
        progress: Callable[[int], object] | None = None,
    ) -> Iterator[LogitSlab]:
        """Predicts an image and yields its logits, plane by plane, each plane once and in order.

        Args:
            image: The preprocessed image.
            content: Where there is anything to see. Windows without are skipped; voxels that no other window covers
                get the logits ``fill``.
            progress: Called with the number of windows that were just dealt with.
        """
        plan = self.plan(image.shape[1:])
        padded = pad_to_plan(image, plan)
        padded_content = None if content is None else pad_to_plan(content[None], plan)[0]
        ring = _Ring(plan, self.num_classes, self.window_weights(), self.fill)
        starts = plan.starts[plan.axis]
        for number, start in enumerate(starts):
            positions = [
                position
                for position in product(*_with(plan.starts, plan.axis, [start]))
                if padded_content is None or bool(padded_content[_window(position, plan)].any())
            ]
            skipped = plan.num_windows // len(starts) - len(positions)
            if progress and skipped:
                progress(skipped)
            for batch, windows in self._batches(padded, positions, plan):
                self._predict(windows, batch, ring)
                if progress:
                    progress(len(batch))
            finished = starts[number + 1] if number + 1 < len(starts) else plan.padded_shape[plan.axis]
            yield from ring.release(finished)

    def logits(
        self,
        image: Float[Tensor, "channels z y x"],
        content: Bool[Tensor, "z y x"] | None = None,
        progress: Callable[[int], object] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Float[Tensor, "classes z y x"]:
        """The logits of the whole image in one array; for those who need more than the label map."""
        result = torch.empty((self.num_classes, *image.shape[1:]), dtype=dtype, device=self.accumulate_on)
        for slab in self.slabs(image, content, progress):
            result.narrow(slab.axis + 1, slab.start, slab.stop - slab.start).copy_(slab.logits)
        return result

    def window_weights(self) -> Float[Tensor, "z y x"]:
        """nnU-Net's Gaussian importance of the voxels of a window, of the patch's shape."""
        from nnunetv2.inference.sliding_window_prediction import compute_gaussian

        # Half precision, because nnU-Net rounds its weights to it: the same weights, summed more exactly.
        gaussian = compute_gaussian(self.patch_size, 1.0 / 8, 10, torch.float16, torch.device("cpu")).float()
        return gaussian.reshape([1] * (3 - gaussian.ndim) + list(gaussian.shape)).to(self.accumulate_on)

    def _batches(
        self, padded: Tensor, positions: list[tuple[int, int, int]], plan: WindowPlan
    ) -> Iterator[tuple[list[tuple[int, int, int]], Tensor]]:
        """Windows on the device, one batch ahead of the network."""
        batches = [
            positions[first : first + self.windows_per_batch]
            for first in range(0, len(positions), self.windows_per_batch)
        ]
        ahead: Tensor | None = None
        for number, batch in enumerate(batches):
            windows = self._load(padded, batch, plan) if ahead is None else ahead
            ahead = None
            if self.device.type == "cuda" and number + 1 < len(batches):
                ahead = self._load(padded, batches[number + 1], plan)
            yield batch, windows

    def _load(self, padded: Tensor, batch: list[tuple[int, int, int]], plan: WindowPlan) -> Tensor:
        windows = torch.stack([padded[_everywhere(_window(position, plan))] for position in batch])
        if len(self.patch_size) == 2:
            windows = windows.squeeze(2)
        if self.device.type == "cuda" and windows.device.type == "cpu":
            # Only from page-locked memory do windows travel to the device while it computes.
            windows = windows.pin_memory()
        return windows.to(self.device, non_blocking=True)

    @torch.inference_mode()
    def _predict(self, windows: Tensor, positions: list[tuple[int, int, int]], ring: _Ring) -> None:
        for window, position in zip(self._run(self.network, windows), positions, strict=True):
            ring.add(window, position)

    def _run(self, network: Callable[[Tensor], Tensor], windows: Tensor) -> Float[Tensor, "batch outputs z y x"]:
        # As nnU-Net: half precision on CUDA only, where the hardware is made for it.
        with torch.autocast("cuda") if self.device.type == "cuda" else nullcontext():
            outputs = network(windows)
        outputs = outputs.to(self.accumulate_on).float()
        return outputs.unsqueeze(2) if len(self.patch_size) == 2 else outputs


class _Ring:
    """Weighted sums of the planes from ``first`` on; plane p lies at index p modulo the patch depth."""

    def __init__(self, plan: WindowPlan, num_classes: int, gaussian: Tensor, fill: Tensor):
        self.plan = plan
        self.depth = plan.patch_size[plan.axis]
        self.first = 0
        self.gaussian = gaussian
        self.fill = fill[:, None, None, None]
        self.sums = torch.zeros((num_classes, *plan.buffer_shape), device=gaussian.device)
        self.weights = torch.zeros(plan.buffer_shape, device=gaussian.device)

    def add(self, logits: Float[Tensor, "classes z y x"], position: tuple[int, int, int]) -> None:
        axis = self.plan.axis
        start = position[axis]
        for planes, where in self._pieces(start, start + self.depth):
            in_buffer = _with(_window(position, self.plan), axis, where)
            in_window = _with(_window((0, 0, 0), self.plan), axis, slice(planes.start - start, planes.stop - start))
            weights = self.gaussian[in_window]
            self.sums[_everywhere(in_buffer)].addcmul_(logits[_everywhere(in_window)], weights)
            self.weights[in_buffer].add_(weights)

    def release(self, stop: int) -> Iterator[LogitSlab]:
        """Hands on the planes before ``stop`` and makes room for others."""
        axis = self.plan.axis
        inside = self.plan.inside
        for planes, where in self._pieces(self.first, stop):
            in_buffer = _with((slice(None),) * 3, axis, where)
            sums, weights = self.sums[_everywhere(in_buffer)], self.weights[in_buffer]
            start = max(planes.start, inside[axis].start)
            end = min(planes.stop, inside[axis].stop)
            if start < end:
                self._divide(sums, weights)
                kept = _with(inside, axis, slice(start - planes.start, end - planes.start))
                offset = inside[axis].start
                yield LogitSlab(axis, start - offset, end - offset, sums[_everywhere(kept)])
            sums.zero_()
            weights.zero_()
        self.first = stop

    def _divide(self, sums: Tensor, weights: Tensor) -> None:
        covered = weights > 0
        if bool(covered.all()):
            sums /= weights
        else:
            sums /= weights.clamp(min=torch.finfo(weights.dtype).tiny)
            for channel, value in zip(sums, self.fill.flatten(), strict=True):
                torch.where(covered, channel, value, out=channel)

    def _pieces(self, start: int, stop: int) -> Iterator[tuple[slice, slice]]:
        """Runs of planes and where they lie in the ring; two where they pass its end."""
        while start < stop:
            index = start % self.depth
            length = min(stop - start, self.depth - index)
            yield slice(start, start + length), slice(index, index + length)
            start += length


def pad_to_plan(volume: Tensor, plan: WindowPlan) -> Tensor:
    """Pads with zeros, as nnU-Net; the volume itself where nothing is missing."""
    if tuple(volume.shape[1:]) == plan.padded_shape:
        return volume
    padded = volume.new_zeros((len(volume), *plan.padded_shape))
    padded[_everywhere(plan.inside)] = volume
    return padded


def _window(position: Sequence[int], plan: WindowPlan) -> tuple[slice, slice, slice]:
    z, y, x = (slice(start, start + size) for start, size in zip(position, plan.patch_size, strict=True))
    return z, y, x


def _everywhere(where: tuple[slice, slice, slice]) -> tuple[slice, slice, slice, slice]:
    """The same place in all channels."""
    return (slice(None), *where)


def _triple(values: Sequence[T]) -> tuple[T, T, T]:
    first, second, third = values
    return first, second, third


def _with(values: Sequence[T], index: int, value: T) -> tuple[T, T, T]:
    """Three values, one of which is replaced."""
    changed = list(values)
    changed[index] = value
    return _triple(changed)
