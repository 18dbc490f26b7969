"""The network and the decision: from a prepared case to what was decided for every voxel of its image."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from nnunetv2_ext.inference.deciding.resampled_axis import separate_axis
from nnunetv2_ext.inference.deciding.rules import Decisions, Enlarged, RuleOfCase, Shape
from nnunetv2_ext.inference.model.folder import Model
from nnunetv2_ext.inference.preparing.nnunet import Prepared
from nnunetv2_ext.inference.windows.sliding_window import LogitSlab, StreamingSlidingWindow

_logger = logging.getLogger(__name__)

#: Called with a number of windows that were just predicted.
Progress = Callable[[int], object]

#: Called with the resampled logits' source: all logits of a case at the network's spacing.
LogitsVisitor = Callable[[Float[Tensor, "classes z y x"]], None]


class Segmenter:
    """Runs windows over a case, adds them up and decides.

    Args:
        model: The model.
        rule: How logits become decisions.
        fill: Logits ``(classes,)`` that stand for background, where no window is predicted.
        networks: Each predicts one window, see `WindowNetwork`; several are folds with sums of their own.
        step_size: Distance of neighbouring windows as a share of the patch size.
        device: Where the network runs.
        on_device: Add windows up there too; on the CPU otherwise. Where the device has too little memory for it, the
            CPU takes over.
        nearest_label_map: Decide at the network's spacing and enlarge the label map by nearest neighbour.
        sums: Type in which windows are added up, float32 or float16.
    """

    def __init__(
        self,
        model: Model,
        rule: RuleOfCase,
        fill: Float[Tensor, " classes"],
        networks: Sequence[nn.Module],
        step_size: float,
        device: torch.device,
        *,
        on_device: bool = True,
        nearest_label_map: bool = False,
        sums: torch.dtype = torch.float32,
    ) -> None:
        self._rule = rule
        self._resampling = model.configuration.configuration["resampling_fn_probabilities"]
        self._resampling_options = model.configuration.configuration["resampling_fn_probabilities_kwargs"]
        self._resample = model.configuration.resampling_fn_probabilities
        self._nearest_label_map = nearest_label_map
        if device.type == "cuda":
            # As nnU-Net: all windows have one shape, so the fastest algorithms are found once.
            torch.backends.cudnn.benchmark = True
        self.windows = StreamingSlidingWindow(
            [network.to(device) for network in networks],
            len(fill),
            model.configuration.patch_size,
            step_size,
            device=device,
            accumulate_on=device if on_device else "cpu",
            fill=fill,
            dtype=sums,
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
        return with_sums_that_fit([self.windows], lambda: self._decide(prepared, progress, visit_logits))

    def count_windows(self, prepared: Prepared) -> int:
        """How many windows a case takes."""
        return self.windows.plan(prepared.data.shape[1:]).num_windows

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

    def _decide(self, prepared: Prepared, progress: Progress | None, visit_logits: LogitsVisitor | None) -> Decisions:
        data, content = prepared.data, prepared.content
        shape: Shape = (data.shape[1], data.shape[2], data.shape[3])
        slabs: Iterator[LogitSlab] | list[LogitSlab]
        streams = self.resamples_linearly or self._nearest_label_map or shape == prepared.image_shape
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
                rule = self._rule(shape, prepared.image_shape, None)
                for channel in self.resample_channels(logits, prepared):
                    rule.feed_channel(channel)
                return rule.result()
            slabs = [LogitSlab(0, 0, shape[0], logits)]
        if self._nearest_label_map:
            return Enlarged(self._rule(shape, shape, None).of(slabs), prepared.image_shape)
        return self._rule(shape, prepared.image_shape, self.nearest_axis(prepared)).of(slabs)


def with_sums_that_fit(windows: Iterable[StreamingSlidingWindow], predict: Callable[[], Decisions]) -> Decisions:
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
