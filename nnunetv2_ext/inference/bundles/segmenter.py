"""Predicts as a MONAI bundle does: its windows, its weights, its decision.

Window weights are MONAI's own (extra ``monai``). A bundle that decides before it goes back to the image
(``nearest_labels``, whole body: 105 classes) never has the logits of the whole scan in memory: only the planes that
later windows reach are kept. One that brings probabilities back first (``linear_probabilities``, spleen: 2 classes)
has, at its own spacing, and one class at a time at the image's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn

from nnunetv2_ext.architectures.segmentation_heads import SelectableHeads
from nnunetv2_ext.inference.bundles.preparing import BundlePreprocessing
from nnunetv2_ext.inference.bundles.profile import BundleProfile
from nnunetv2_ext.inference.deciding.rules import Decisions, LargestLogit, RuleOfCase, Winners, background_logits
from nnunetv2_ext.inference.deciding.tiles import refuse_nonfinite
from nnunetv2_ext.inference.preparing.protocol import Prepared
from nnunetv2_ext.inference.segmentation import LogitsVisitor, Progress, with_sums_that_fit
from nnunetv2_ext.inference.windows.plan import WindowPlan, everywhere, padding, triple
from nnunetv2_ext.inference.windows.ring import LogitSlab
from nnunetv2_ext.inference.windows.sliding_window import StreamingSlidingWindow
from nnunetv2_ext.inference.windows.window_network import WindowNetwork, moved


class BundleSegmenter:
    """Runs a bundle's windows and decides as the bundle does.

    All logits of a scan are held only where the bundle decides on the image's grid, or where somebody visits them.

    Args:
        profile: What the bundle does.
        preprocessing: For bundles that decide on the image's grid.
        networks: Whose logits are averaged.
        channels: How many logits they give per voxel.
        regions: How sigmoid outputs become labels; None for softmax outputs.
        device: Where the network runs.
        on_device: Add windows up there too; on the CPU otherwise, and where the device has too little memory for it.
        precision: Type that the network computes in, see `StreamingSlidingWindow`.
    """

    def __init__(
        self,
        profile: BundleProfile,
        preprocessing: BundlePreprocessing,
        networks: Sequence[nn.Module],
        channels: int,
        device: torch.device,
        *,
        regions: RuleOfCase | None = None,
        on_device: bool = True,
        precision: torch.dtype | None = None,
    ) -> None:
        self._profile = profile
        self._regions = regions
        self._preprocessing = preprocessing
        windows_of = partial(
            StreamingSlidingWindow,
            patch_size=profile.window_size,
            device=device,
            accumulate_on=device if on_device else "cpu",
            precision=precision,
            plan=partial(monai_plan, profile),
            weights=monai_weights(profile),
        )
        network = moved(WindowNetwork(networks, dtype=torch.float32), device)
        self.windows = windows_of(network, channels, fill=background_logits(channels, has_regions=regions is not None))
        self._head = LinearHead.of(network)
        self._sums = self.windows if self._head is None else windows_of(self._head.backbone, self._head.features)

    def __call__(
        self, prepared: Prepared, progress: Progress | None = None, visit_logits: LogitsVisitor | None = None
    ) -> Decisions:
        """Predicts one case; see `Segmenter`."""
        return with_sums_that_fit([self.windows, self._sums], lambda: self._decide(prepared, progress, visit_logits))

    def num_windows(self, prepared: Prepared) -> int:
        """How many windows a case has."""
        return self.windows.plan(prepared.shape).num_windows

    def _decide(self, prepared: Prepared, progress: Progress | None, visit_logits: LogitsVisitor | None) -> Decisions:
        on_networks_grid = self._profile.inversion == "nearest_labels"
        if self._regions is not None and visit_logits is None:
            shape = triple(prepared.data.shape[1:])
            return self._regions(shape, shape, None).of(self._logit_slabs(prepared.data, progress))
        if on_networks_grid and visit_logits is None:
            return Winners(self.windows.num_classes, self.winners(prepared.data, progress).numpy())
        logits = self.windows.logits(prepared.data, None, progress)
        if not on_networks_grid:
            logits = logits[everywhere(prepared.placement.inside)]
        if visit_logits is not None:
            visit_logits(logits)
        if on_networks_grid:
            shape = triple(logits.shape[1:])
            rule = (self._regions or partial(LargestLogit, len(logits)))(shape, shape, None)
            return rule.of([LogitSlab(0, 0, shape[0], logits)])
        # Probabilities are compared on the image's grid, one class at a time.
        logits = logits.cpu()
        normaliser = logits.logsumexp(0)
        probabilities = (self._preprocessing.invert((values - normaliser).exp(), prepared) for values in logits)
        first = next(probabilities)
        rule = LargestLogit(len(logits), first.shape, first.shape)
        return rule.of_channels(values.numpy() for values in chain([first], probabilities))

    @torch.inference_mode()
    def _logit_slabs(self, image: Float[Tensor, "channels z y x"], progress: Progress | None) -> Iterator[LogitSlab]:
        for slab in self._sums.slabs(image, None, progress):
            yield slab if self._head is None else replace(slab, logits=self._head.logits(slab.logits))

    @torch.inference_mode()
    def winners(
        self, image: Float[Tensor, "channels z y x"], progress: Progress | None = None
    ) -> Integer[Tensor, "z y x"]:
        """The channel with the largest logit, on the CPU, without holding the logits of more than one plane.

        Where the last layer is a 1x1x1 convolution from fewer channels than there are classes, these channels are added
        up and the layer comes after: it is linear, so that the order makes no difference but for rounding.

        Raises:
            UserError: A logit is NaN or infinite.
        """
        winner = torch.empty(image.shape[1:], dtype=torch.int16)
        for slab in self._sums.slabs(image, None, progress):
            for plane in range(slab.start, slab.stop):
                logits = slab.logits.select(slab.axis + 1, plane - slab.start)
                if self._head is not None:
                    logits = self._head.logits(logits)
                largest, channel = logits.max(0)
                refuse_nonfinite(largest)
                winner.select(slab.axis, plane).copy_(channel)
        return winner


def monai_plan(profile: BundleProfile, shape: Sequence[int]) -> WindowPlan:
    """MONAI's windows: every ``size * (1 - overlap)`` voxels, the last ones moved inside the image."""
    size = profile.window_size
    padded, inside = padding(shape, size)
    starts = [_starts(extent, least, profile.overlap) for extent, least in zip(padded, size, strict=True)]
    axis = min(range(3), key=lambda along: size[along] / padded[along])
    return WindowPlan(padded, inside, size, triple(starts), axis)


def _starts(extent: int, size: int, overlap: float) -> list[int]:
    step = size if size == extent else max(1, int(size * (1 - overlap)))
    count = math.ceil((extent - size) / step) + 1
    return [min(number * step, extent - size) for number in range(count)]


def monai_weights(profile: BundleProfile) -> Float[Tensor, "z y x"]:
    """MONAI's importance of the voxels of a window."""
    from monai.data.utils import compute_importance_map

    weights: Tensor = compute_importance_map(profile.window_size, mode=profile.blend, sigma_scale=0.125)
    return weights.float()


class LinearHead:
    """The last layer of a network, a 1x1x1 convolution, apart from everything before it.

    Args:
        network: Gives feature maps apart from the heads.
    """

    def __init__(self, network: SelectableHeads) -> None:
        self._network = network
        layer = network.decoder.seg_layers[-1]
        bias = layer.weight.new_zeros(layer.out_channels) if layer.bias is None else layer.bias
        self._matrix = torch.cat([layer.weight.flatten(1), bias[:, None]], 1).detach().float()
        self.features = self._matrix.shape[1]

    @classmethod
    def of(cls, network: Any) -> LinearHead | None:
        """None where the network has no such layer, or where adding up its inputs would take more memory."""
        if isinstance(network, WindowNetwork):
            if len(network.networks) > 1:
                return None
            network = network.networks[0]
        # Hooks, such as a label tree's, change what the last layer gives.
        if not isinstance(network, SelectableHeads) or network._forward_hooks:
            return None
        layer = network.decoder.seg_layers[-1]
        is_linear = isinstance(layer, nn.Conv3d) and set(layer.kernel_size) == {1} and set(layer.stride) == {1}
        return cls(network) if is_linear and layer.in_channels + 1 < layer.out_channels else None

    def backbone(self, windows: Float[Tensor, "batch channels z y x"]) -> Float[Tensor, "batch features z y x"]:
        """Inputs of the last layer, and a channel of ones, whose sum the bias is multiplied by."""
        features = self._network.forward_features(windows)[-1]
        return torch.cat([features, torch.ones_like(features[:, :1])], 1)

    def logits(self, sums: Float[Tensor, features * axes]) -> Float[Tensor, classes * axes]:
        """What the last layer makes of sums of what `backbone` gave."""
        return (self._matrix.to(sums.device) @ sums.flatten(1)).unflatten(1, sums.shape[1:])
