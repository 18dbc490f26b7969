"""Sliding-window prediction that holds only the planes later windows can still touch.

nnU-Net adds all windows of a scan into one array of (classes x scan) half-precision numbers. Here windows run plane by
plane along one axis; what no later window touches is divided by its weights and handed on at once, an idea of SALT's
(its "online argmax"). The sums are kept in a ring of (classes x patch depth x height x width) numbers, however long the
scan, along the axis that makes this least. The windows, their Gaussian weights and the padding are nnU-Net's.

Sums in float32 are as exact as the network. Sums in float16 are nnU-Net's, bit by bit: every product and every sum is
rounded as there. In float16 the order in which windows are added up shows in the result, so planes are handed on along
the first axis that has more than one window, and each fold has sums of its own.
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

from nnunetv2_ext.utilities.errors import UserError

T = TypeVar("T")

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
        network: From windows (batch, channels, *patch) to logits (batch, classes, *patch). Averaging over mirrored
            windows, and predicting selected classes only, is its business. Several networks are folds: each has sums
            of its own, and their finished logits are averaged, as nnU-Net does; in float32 a network that averages
            folds gives the same from less memory.
        num_classes: How many logits the network gives per voxel.
        patch_size: (z, y, x), or (y, x) for a network that predicts slice by slice.
        step_size: Distance of neighbouring windows as a share of the patch size.
        device: Where the network runs.
        accumulate_on: Where sums are kept; ``device`` by default.
        windows_per_batch: Windows of equal position along the axis that are predicted together.
        fill: Logits (classes,) of voxels that no predicted window covers. By default 10 for the first and -10 for all
            other classes, which is background for a softmax; give -10 for all with sigmoid outputs.
        axis: Along which axis to hand planes on; by default the one that needs the least memory, for sums in float16
            the first that has more than one window, as nnU-Net's windows run.
        dtype: Type of the sums: float32, or float16 for the rounding of nnU-Net's.
        plan: Lays the windows of an image of some shape out, instead of nnU-Net's plan.
        weights: Importance of the voxels of a window, instead of nnU-Net's Gaussian.

    Example:
        >>> window = StreamingSlidingWindow(lambda x: x.repeat(1, 2, 1, 1, 1), 2, (4, 4, 4))
        >>> [(slab.start, slab.stop) for slab in window.slabs(torch.zeros(1, 8, 4, 4))]
        [(0, 2), (2, 4), (4, 8)]
    """

    def __init__(
        self,
        network: Callable[[Tensor], Tensor] | Sequence[Callable[[Tensor], Tensor]],
        num_classes: int,
        patch_size: Sequence[int],
        step_size: float = 0.5,
        *,
        device: torch.device | str = "cpu",
        accumulate_on: torch.device | str | None = None,
        windows_per_batch: int = 1,
        fill: Float[Tensor, " classes"] | None = None,
        axis: int | None = None,
        dtype: torch.dtype = torch.float32,
        plan: Callable[[Sequence[int]], WindowPlan] | None = None,
        weights: Float[Tensor, "z y x"] | None = None,
    ) -> None:
        if len(patch_size) not in (2, 3) or not 0 < step_size <= 1 or windows_per_batch < 1:
            raise ValueError(
                f"Expected a patch size of two or three axes, a step size above 0 and up to 1, and at least one window "
                f"per batch, but got {tuple(patch_size)}, {step_size} and {windows_per_batch}."
            )
        if dtype not in (torch.float16, torch.float32):
            raise ValueError(f"Expected sums in torch.float16 or torch.float32, but got {dtype}.")
        self.networks = tuple(network) if isinstance(network, Sequence) else (network,)
        self.num_classes = num_classes
        self.patch_size = tuple(int(size) for size in patch_size)
        self.step_size = step_size
        self.device = torch.device(device)
        self.accumulate_on = torch.device(accumulate_on or device)
        self.windows_per_batch = windows_per_batch
        if fill is None:
            fill = torch.tensor([10.0] + [-10.0] * (num_classes - 1))
        self.fill = fill.to(dtype=dtype)
        self.axis = axis
        self.dtype = dtype
        self._plan = plan or self._nnunet_plan
        self._weights = weights

    def plan(self, shape: Sequence[int]) -> WindowPlan:
        """Where the windows of an image of shape (z, y, x) lie."""
        return self._plan(shape)

    def _nnunet_plan(self, shape: Sequence[int]) -> WindowPlan:
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
        if axis is None and self.dtype == torch.float16:
            # nnU-Net's order of windows, last axis fastest; with one window along z it is also that of planes along y.
            axis = next((along for along in range(3) if len(starts[along]) > 1), 0)
        elif axis is None:
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

        Raises:
            UserError: Sums in float16 overflow.
        """
        plan = self.plan(image.shape[1:])
        padded = pad_to_plan(image, plan)
        padded_content = None if content is None else pad_to_plan(content[None], plan)[0]
        ring = _Ring(plan, len(self.networks), self.window_weights(), self.fill.to(self.accumulate_on))
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
        dtype: torch.dtype | None = None,
    ) -> Float[Tensor, "classes z y x"]:
        """The logits of the whole image in one array, by default of the type of the sums.

        For those who need more than the label map; see `slabs`.
        """
        shape = (self.num_classes, *image.shape[1:])
        result = torch.empty(shape, dtype=dtype or self.dtype, device=self.accumulate_on)
        for slab in self.slabs(image, content, progress):
            result.narrow(slab.axis + 1, slab.start, slab.stop - slab.start).copy_(slab.logits)
        return result

    def window_weights(self) -> Float[Tensor, "z y x"]:
        """Importance of the voxels of a window, of the patch's shape."""
        if self._weights is not None:
            return self._weights.to(self.accumulate_on)
        from nnunetv2.inference.sliding_window_prediction import compute_gaussian

        # Half precision, because nnU-Net rounds its weights to it, whatever type they are added up in here.
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
        for fold, network in enumerate(self.networks):
            for window, position in zip(self._run(network, windows), positions, strict=True):
                ring.add(window, position, fold)
        for position in positions:
            ring.add_weights(position)

    def _run(self, network: Callable[[Tensor], Tensor], windows: Tensor) -> Float[Tensor, "batch outputs z y x"]:
        # As nnU-Net: half precision on CUDA only, where the hardware is made for it.
        with torch.autocast("cuda") if self.device.type == "cuda" else nullcontext():
            outputs = network(windows)
        outputs = outputs.to(self.accumulate_on)
        if self.dtype == torch.float32:
            outputs = outputs.float()
        return outputs.unsqueeze(2) if len(self.patch_size) == 2 else outputs


class _Ring:
    """Weighted sums of the planes from ``first`` on; plane p lies at index p modulo the patch depth."""

    def __init__(self, plan: WindowPlan, folds: int, gaussian: Float[Tensor, "z y x"], fill: Float[Tensor, " classes"]):
        self.plan = plan
        self.depth = plan.patch_size[plan.axis]
        self.first = 0
        self.gaussian = gaussian
        self.fill = fill
        shape = (folds, len(fill), *plan.buffer_shape)
        self.sums = torch.zeros(shape, dtype=fill.dtype, device=gaussian.device)
        self.weights = torch.zeros(plan.buffer_shape, dtype=fill.dtype, device=gaussian.device)

    def add(self, logits: Float[Tensor, "classes z y x"], position: tuple[int, int, int], fold: int) -> None:
        for in_buffer, in_window in self._places(position):
            _add_weighted(
                self.sums[fold][_everywhere(in_buffer)], logits[_everywhere(in_window)], self.gaussian[in_window]
            )

    def add_weights(self, position: tuple[int, int, int]) -> None:
        for in_buffer, in_window in self._places(position):
            self.weights[in_buffer] += self.gaussian[in_window].to(self.weights.dtype)

    def release(self, stop: int) -> Iterator[LogitSlab]:
        """Hands on the planes before ``stop`` and makes room for others."""
        axis = self.plan.axis
        inside = self.plan.inside
        for planes, where in self._pieces(self.first, stop):
            in_buffer = _with((slice(None),) * 3, axis, where)
            of_folds = (slice(None), *_everywhere(in_buffer))
            sums, weights = self.sums[of_folds], self.weights[in_buffer]
            start = max(planes.start, inside[axis].start)
            end = min(planes.stop, inside[axis].stop)
            if start < end:
                logits = self._finish(sums, weights)
                kept = _with(inside, axis, slice(start - planes.start, end - planes.start))
                offset = inside[axis].start
                yield LogitSlab(axis, start - offset, end - offset, logits[_everywhere(kept)])
            sums.zero_()
            weights.zero_()
        self.first = stop

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
                for channel, value in zip(of_fold, self.fill, strict=True):
                    torch.where(covered, channel, value, out=channel)
        logits, *others = sums
        for other in others:
            logits += other
        if others:
            # By a tensor: on CUDA torch multiplies by the reciprocal of a number, which rounds otherwise than nnU-Net's
            # division on the CPU.
            logits /= logits.new_tensor(len(sums))
        if logits.dtype == torch.float16:
            _refuse_overflow(logits)
        return logits

    def _places(
        self, position: tuple[int, int, int]
    ) -> Iterator[tuple[tuple[slice, slice, slice], tuple[slice, slice, slice]]]:
        """Where the parts of a window lie in the ring and in the window."""
        axis = self.plan.axis
        start = position[axis]
        for planes, where in self._pieces(start, start + self.depth):
            in_buffer = _with(_window(position, self.plan), axis, where)
            in_window = _with(_window((0, 0, 0), self.plan), axis, slice(planes.start - start, planes.stop - start))
            yield in_buffer, in_window

    def _pieces(self, start: int, stop: int) -> Iterator[tuple[slice, slice]]:
        """Runs of planes and where they lie in the ring; two where they pass its end."""
        while start < stop:
            index = start % self.depth
            length = min(stop - start, self.depth - index)
            yield slice(start, start + length), slice(index, index + length)
            start += length


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


def _refuse_overflow(logits: Float[Tensor, "classes z y x"]) -> None:
    if bool(torch.isinf(torch.stack([logits.amax(), logits.amin()])).any()):
        raise UserError(
            "Expected logits whose weighted sums float16 can hold (up to 65504), as nnUNetv2_predict does, but they "
            "exceed it; add windows up in float32 (--sums float32)."
        )


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
