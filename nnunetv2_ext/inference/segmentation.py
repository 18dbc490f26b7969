"""The network and the decision: from a prepared case to what was decided for every voxel of its image."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nnunetv2_ext.inference.deciding.axes import separate_axis
from nnunetv2_ext.inference.deciding.outputs import OutputPlan
from nnunetv2_ext.inference.deciding.rules import Decisions, Enlarged, background_logits, rule_of_cases
from nnunetv2_ext.inference.deciding.softmax_heads import LargestOfEachHead, background_of_heads
from nnunetv2_ext.inference.model.folder import Model
from nnunetv2_ext.inference.modes import SUMS, Mode
from nnunetv2_ext.inference.preparing.protocol import Prepared
from nnunetv2_ext.inference.windows.ring import LogitSlab
from nnunetv2_ext.inference.windows.sliding_window import StreamingSlidingWindow
from nnunetv2_ext.inference.windows.window_network import WindowNetwork

_logger = logging.getLogger(__name__)

Result = TypeVar("Result")

#: Called with a number of windows that were just predicted.
Progress = Callable[[int], object]

#: Called with the resampled logits' source: all logits of a case at the network's spacing.
LogitsVisitor = Callable[[Float[Tensor, "classes z y x"]], None]


class Segmenter:
    """Runs a model's windows over a case, adds them up and decides as its plans say.

    Args:
        model: The model; its networks may be wherever they are.
        mode: Step size, mirroring, type of the sums, and where labels are decided.
        plan: Which label maps are wanted.
        device: Where the network runs.
        on_device: Add windows up there too; on the CPU otherwise. Where the device has too little memory for it, the
            CPU takes over.
        precision: Type that the network computes in, see `StreamingSlidingWindow`.
        heads: Outputs of each softmax head, where the network has several side by side.
    """

    def __init__(
        self,
        model: Model,
        mode: Mode,
        plan: OutputPlan,
        device: torch.device,
        *,
        on_device: bool = True,
        precision: torch.dtype | None = None,
        heads: Sequence[int] | None = None,
    ) -> None:
        settings = model.configuration.configuration
        self._resampling = settings["resampling_fn_probabilities"]
        self._resampling_options = settings["resampling_fn_probabilities_kwargs"]
        self._resample = model.configuration.resampling_fn_probabilities
        self._nearest_label_map = mode.nearest_label_map
        has_regions = model.labels.has_regions
        channels = len(plan.channels) if plan.channels else model.labels.num_segmentation_heads
        self._rule = rule_of_cases(plan, channels, has_regions=has_regions)
        fill = background_logits(channels, has_regions=has_regions)
        if heads is not None:
            channels, fill, self._rule = sum(heads), background_of_heads(heads), partial(LargestOfEachHead, heads)
        if device.type == "cuda":
            # As nnU-Net: all windows have one shape, so the fastest algorithms are found once.
            torch.backends.cudnn.benchmark = True
        axes = model.mirror_axes if mode.mirroring else None
        # Stock averages the finished logits of folds. In float16 that is rounded otherwise than the mean of windows.
        networks = [WindowNetwork([network], axes) for network in model.networks]
        if mode.sums == "float32":
            networks = [WindowNetwork(model.networks, axes, torch.float32)]
        self.windows = StreamingSlidingWindow(
            networks,
            channels,
            model.configuration.patch_size,
            mode.step_size,
            device=device,
            accumulate_on=device if on_device else "cpu",
            fill=fill,
            dtype=SUMS[mode.sums],
            precision=precision,
        )

    def __call__(
        self, prepared: Prepared, progress: Progress | None = None, visit_logits: LogitsVisitor | None = None
    ) -> Decisions:
        """Predicts one case.

        Args:
            prepared: The case.
            progress: Called with the number of windows that were just dealt with.
            visit_logits: Called with all logits, for those who need more than decisions; then (and only then) they
                are held at the network's spacing as a whole.

        Returns:
            Decisions of shape ``prepared.image_shape``.
        """
        return self.onto([prepared], progress, visit_logits)[0]

    def onto(
        self, grids: Sequence[Prepared], progress: Progress | None = None, visit_logits: LogitsVisitor | None = None
    ) -> list[Decisions]:
        """Predicts one case and decides for several grids; the network runs once.

        Args:
            grids: The case, as often as there are grids; they differ in ``image_shape`` and ``image_spacing`` only.
            progress: As for one grid.
            visit_logits: Likewise.

        Returns:
            The decisions of each grid.
        """
        return with_sums_that_fit([self.windows], lambda: self._decide(grids, progress, visit_logits))

    def num_windows(self, prepared: Prepared) -> int:
        """How many windows a case has."""
        return self.windows.plan(prepared.shape).num_windows

    def resample_channels(
        self, logits: Float[Tensor, "classes z y x"], prepared: Prepared
    ) -> Iterator[Float[np.ndarray, "Z Y X"]]:
        """Resamples logits to the image with the plans' own function, one class at a time."""
        for channel in logits.split(1):
            resampled = self._resample(
                channel.cpu().numpy(), prepared.image_shape, prepared.spacing, prepared.image_spacing
            )
            yield np.asarray(resampled)[0]

    def nearest_axis(self, prepared: Prepared) -> int | None:
        """The axis that the plans resample by nearest neighbour for this case, None for none."""
        force = self._resampling_options.get("force_separate_z")
        return separate_axis(prepared.spacing, prepared.image_spacing, force)

    @property
    def resamples_linearly(self) -> bool:
        """Whether the plans resample logits as the streaming export does: linearly, with half-pixel centres."""
        options = self._resampling_options
        if options.get("is_seg") or "separate_z_anisotropy_threshold" in options:
            return False
        if self._resampling == "resample_data_or_seg_to_shape":
            return bool(options.get("order", 3) == 1 and options.get("order_z", 0) == 0)
        if self._resampling == "resample_torch_fornnunet":
            mode, across = options.get("mode", "linear"), options.get("aniso_axis_mode", "nearest-exact")
            return bool(mode == "linear" and across == "nearest-exact")
        return False

    def _decide(
        self, grids: Sequence[Prepared], progress: Progress | None, visit_logits: LogitsVisitor | None
    ) -> list[Decisions]:
        prepared = grids[0]
        data, content, shape = prepared.data, prepared.content, prepared.shape
        slabs: Iterable[LogitSlab]
        streams = self.resamples_linearly or self._nearest_label_map or all(shape == grid.image_shape for grid in grids)
        # What is resampled has the type of the sums, as with nnU-Net's default; its other function returns float32.
        dtype = torch.float32 if self._resampling == "resample_torch_fornnunet" else self.windows.dtype
        if streams and visit_logits is None:
            slabs = (
                replace(slab, logits=slab.logits.to(dtype)) for slab in self.windows.slabs(data, content, progress)
            )
        else:
            logits = self.windows.logits(data, content, progress, dtype)
            if visit_logits is not None:
                visit_logits(logits)
            if not streams:
                rules = [self._rule(shape, grid.image_shape, None) for grid in grids]
                return [
                    rule.of_channels(self.resample_channels(logits, grid))
                    for rule, grid in zip(rules, grids, strict=True)
                ]
            slabs = [LogitSlab(0, 0, shape[0], logits)]
        if self._nearest_label_map:
            decisions = self._rule(shape, shape, None).of(slabs)
            return [Enlarged(decisions, grid.image_shape) for grid in grids]
        rules = [self._rule(shape, grid.image_shape, self.nearest_axis(grid)) for grid in grids]
        for slab in slabs:
            for rule in rules:
                rule.feed(slab)
        return [rule.result() for rule in rules]


def with_sums_that_fit(windows: Iterable[StreamingSlidingWindow], predict: Callable[[], Result]) -> Result:
    """Predicts a case; where the device has too little memory to add its windows up, the CPU does it for this case."""
    try:
        return predict()
    except torch.OutOfMemoryError:
        before = [(each, each.accumulate_on) for each in windows]
        if all(device.type == "cpu" for _, device in before):
            raise
    _logger.warning("The device has too little memory to add the windows of this case up; the CPU does it.")
    torch.cuda.empty_cache()
    try:
        for each, _ in before:
            each.accumulate_on = torch.device("cpu")
        return predict()
    finally:
        for each, device in before:
            each.accumulate_on = device
