"""Sliding-window prediction that holds only the planes later windows can still touch.

nnU-Net adds all windows of a scan into one array of (classes x scan) half-precision numbers. Here windows run plane by
plane along one axis; what no later window touches is divided by its weights and handed on at once, an idea of SALT's
(its "online argmax"). The sums are kept in a ring of (classes x patch depth x height x width) numbers, however long the
scan, along the axis that makes this least. The windows, their Gaussian weights and the padding are nnU-Net's.

Sums in float32 are as exact as the network. Sums in float16 are nnU-Net's, bit by bit: every product and every sum is
rounded as there. In float16 the order in which windows are added up shows in the result, so planes are handed on along
the first axis that has more than one window, and each fold has sums of its own: in rings side by side, or, where that
would take more memory than nnU-Net takes, one fold after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from itertools import product
from math import prod
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from nnunetv2_ext.inference.windows.plan import WindowPlan, everywhere, nnunet_plan, replaced
from nnunetv2_ext.inference.windows.ring import LogitSlab, Ring, averaged
from nnunetv2_ext.inference.windows.window_network import moved

Network = Callable[[Tensor], Tensor]


class StreamingSlidingWindow:
    """Predicts an image window by window and hands finished planes on at once.

    Args:
        network: From windows (batch, channels, *patch) to logits (batch, classes, *patch). Averaging over mirrored
            windows, and predicting selected classes only, is its business. Several networks are folds: each has sums
            of its own, and their finished logits are averaged, as nnU-Net does; in float32 a network that averages
            folds gives the same from less memory. A network that is elsewhere is copied to ``device`` for the first
            image, several ones for each image anew, as nnU-Net does.
        num_classes: How many logits the network gives per voxel.
        patch_size: (z, y, x), or (y, x) for a network that predicts slice by slice.
        step_size: Distance of neighbouring windows as a share of the patch size.
        device: Where the network runs.
        accumulate_on: Where sums are kept; ``device`` by default.
        fill: Logits (classes,) of voxels that no predicted window covers. By default 10 for the first and -10 for all
            other classes, which is background for a softmax; give -10 for all with sigmoid outputs.
        axis: Along which axis to hand planes on, see `nnunet_plan`.
        dtype: Type of the sums: float32, or float16 for the rounding of nnU-Net's.
        precision: Type that the network computes in (autocast). As nnU-Net, float16 on CUDA and float32 elsewhere if
            not given.
        plan: Lays the windows of an image of some shape out, instead of nnU-Net's plan.
        weights: Importance of the voxels of a window, instead of nnU-Net's Gaussian.

    Example:
        >>> window = StreamingSlidingWindow(lambda x: x.repeat(1, 2, 1, 1, 1), 2, (4, 4, 4))
        >>> [(slab.start, slab.stop) for slab in window.slabs(torch.zeros(1, 8, 4, 4))]
        [(0, 2), (2, 4), (4, 8)]
    """

    def __init__(
        self,
        network: Network | Sequence[Network],
        num_classes: int,
        patch_size: Sequence[int],
        step_size: float = 0.5,
        *,
        device: torch.device | str = "cpu",
        accumulate_on: torch.device | str | None = None,
        fill: Float[Tensor, " classes"] | None = None,
        axis: int | None = None,
        dtype: torch.dtype = torch.float32,
        precision: torch.dtype | None = None,
        plan: Callable[[Sequence[int]], WindowPlan] | None = None,
        weights: Float[Tensor, "z y x"] | None = None,
    ) -> None:
        if len(patch_size) not in (2, 3) or not 0 < step_size <= 1:
            raise ValueError(
                "Expected a patch size of two or three axes, and a step size above 0 and up to 1, but got "
                f"{tuple(patch_size)} and {step_size}."
            )
        if dtype not in (torch.float16, torch.float32):
            raise ValueError(f"Expected sums in torch.float16 or torch.float32, but got {dtype}.")
        self.num_classes = num_classes
        self.patch_size = tuple(int(size) for size in patch_size)
        self.step_size = step_size
        self.device = torch.device(device)
        self.accumulate_on = torch.device(accumulate_on or device)
        if fill is None:
            fill = torch.tensor([10.0] + [-10.0] * (num_classes - 1))
        self.fill = fill.to(dtype=dtype)
        self.axis = axis
        self.dtype = dtype
        self.precision = precision or (torch.float16 if self.device.type == "cuda" else torch.float32)
        self._plan = plan
        self._weights = weights
        self.networks = tuple(network) if isinstance(network, Sequence) else (network,)

    def plan(self, shape: Sequence[int]) -> WindowPlan:
        """Where the windows of an image of shape (z, y, x) lie."""
        if self._plan is not None:
            return self._plan(shape)
        in_order = self.dtype == torch.float16
        return nnunet_plan(shape, self.patch_size, self.step_size, self.axis, in_order=in_order)

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
        if len(self.networks) == 1:
            self.networks = (moved(self.networks[0], self.device),)
        if self._fit_side_by_side(plan):
            yield from self._slabs_of(self.networks, plan, image, content, progress)
            return
        # As nnU-Net: all logits of the folds before are kept, on the CPU, and those of the next are added to them.
        progress = _evenly(progress, len(self.networks))
        *first, last = self.networks
        total = torch.zeros((self.num_classes, *image.shape[1:]), dtype=self.dtype)
        for network in first:
            for slab in self._slabs_of([network], plan, image, content, progress):
                slab.of(total).add_(slab.logits.cpu())
            del slab  # a view of the ring, which would last until the next ring is there
        for slab in self._slabs_of([last], plan, image, content, progress):
            averaged(slab.logits.add_(slab.of(total).to(slab.logits.device)), len(self.networks))
            yield slab

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
            slab.of(result).copy_(slab.logits)
        return result

    def window_weights(self) -> Float[Tensor, "z y x"]:
        """Importance of the voxels of a window, of the patch's shape."""
        if self._weights is not None:
            return self._weights.to(self.accumulate_on)
        from nnunetv2.inference.sliding_window_prediction import compute_gaussian

        # Half precision, because nnU-Net rounds its weights to it, whatever type they are added up in here.
        gaussian = compute_gaussian(self.patch_size, 1.0 / 8, 10, torch.float16, torch.device("cpu")).float()
        return gaussian.reshape([1] * (3 - gaussian.ndim) + list(gaussian.shape)).to(self.accumulate_on)

    def _fit_side_by_side(self, plan: WindowPlan) -> bool:
        """Whether a ring for every fold takes less than one ring and the logits of the whole image."""
        number = self.num_classes * self.fill.element_size()
        beside = (len(self.networks) - 1) * prod(plan.buffer_shape) * number
        if self.device.type != "cpu":
            # All networks are on the device then.
            beside += sum(
                tensor.numel() * tensor.element_size()
                for network in self.networks[1:]
                if isinstance(network, nn.Module)
                for tensor in network.state_dict().values()
            )
        return beside <= prod(plan.padded_shape) * number

    def _slabs_of(
        self,
        networks: Sequence[Network],
        plan: WindowPlan,
        image: Float[Tensor, "channels z y x"],
        content: Bool[Tensor, "z y x"] | None,
        progress: Callable[[int], object] | None,
    ) -> Iterator[LogitSlab]:
        networks = [moved(network, self.device) for network in networks]
        padded = plan.pad(image)
        padded_content = None if content is None else plan.pad(content[None])[0]
        ring = Ring(plan, len(networks), self.window_weights(), self.fill.to(self.accumulate_on))
        starts = plan.starts[plan.axis]
        for number, start in enumerate(starts):
            positions = [
                position
                for position in product(*replaced(plan.starts, plan.axis, [start]))
                if padded_content is None or bool(padded_content[plan.window(position)].any())
            ]
            skipped = plan.num_windows // len(starts) - len(positions)
            if progress and skipped:
                progress(skipped)
            for position, window in self._windows(padded, positions, plan):
                for fold, network in enumerate(networks):
                    ring.add(self._predict(network, window), position, fold)
                if progress:
                    progress(1)
            finished = starts[number + 1] if number + 1 < len(starts) else plan.padded_shape[plan.axis]
            yield from ring.release(finished)

    def _windows(
        self, padded: Tensor, positions: list[tuple[int, int, int]], plan: WindowPlan
    ) -> Iterator[tuple[tuple[int, int, int], Tensor]]:
        """Windows on the device; on CUDA one ahead of the network."""

        def load(position: tuple[int, int, int]) -> Tensor:
            window = padded[everywhere(plan.window(position))][None]
            if len(self.patch_size) == 2:
                window = window.squeeze(2)
            if self.device.type == "cuda" and window.device.type == "cpu":
                # Only from page-locked memory do windows travel to the device while it computes.
                window = window.pin_memory()
            return window.to(self.device, non_blocking=True)

        ahead: list[Tensor] = []
        for number, position in enumerate(positions):
            window = ahead.pop() if ahead else load(position)
            if self.device.type == "cuda" and number + 1 < len(positions):
                ahead.append(load(positions[number + 1]))
            yield position, window

    @torch.inference_mode()
    def _predict(self, network: Network, window: Tensor) -> Float[Tensor, "outputs z y x"]:
        autocast: Any = nullcontext()
        if self.precision != torch.float32:
            autocast = torch.autocast(self.device.type, self.precision)
        with autocast:
            outputs = network(window)
        outputs = outputs[0].to(self.accumulate_on)
        if self.dtype == torch.float32:
            outputs = outputs.float()
        return outputs.unsqueeze(1) if len(self.patch_size) == 2 else outputs


def _evenly(progress: Callable[[int], object] | None, rounds: int) -> Callable[[int], object] | None:
    """Progress over several rounds of the same windows: a window counts when as many were dealt with as rounds."""
    if progress is None:
        return None
    dealt_with = 0

    def count(windows: int) -> None:
        nonlocal dealt_with
        before, dealt_with = dealt_with // rounds, dealt_with + windows
        if dealt_with // rounds > before:
            progress(dealt_with // rounds - before)

    return count
