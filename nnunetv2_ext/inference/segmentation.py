"""The network and the decision: from a prepared case to its label maps on the image's grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import nn

from nnunetv2_ext.inference.model import Model
from nnunetv2_ext.inference.output_maps import Masks, OutputMap, OutputPlan
from nnunetv2_ext.inference.preprocessing import Prepared


class Decisions(Protocol):
    """What was decided for every voxel; label maps are made from it one at a time."""

    def paint(self, output: OutputMap) -> Integer[np.ndarray, "z y x"]:
        """The label map of an output, of shape ``prepared.image_shape``."""
        ...


@dataclass
class Winners:
    """Decisions of a softmax model: one output channel per voxel."""

    channels: int
    winner: Integer[np.ndarray, "z y x"]

    def paint(self, output: OutputMap) -> Integer[np.ndarray, "z y x"]:
        """See `Decisions`."""
        return output.table(self.channels)[self.winner]


class Segmenter:
    """Runs windows over a case, adds them up and decides.

    Args:
        model: The model.
        plan: Which label maps are wanted.
        network: Predicts one window, see `WindowNetwork`.
        step_size: Distance of neighbouring windows as a share of the patch size.
        device: Where the network runs.
    """

    def __init__(
        self, model: Model, plan: OutputPlan, network: nn.Module, step_size: float, device: torch.device
    ) -> None:
        self._model = model
        self._plan = plan
        self._network = network.to(device)
        self._step_size = step_size
        self._device = device
        self._channels = len(plan.channels) if plan.channels else model.labels.num_segmentation_heads

    def __call__(self, prepared: Prepared) -> Decisions:
        """Predicts one case."""
        logits = self._logits(prepared)
        resample = self._model.configuration.resampling_fn_probabilities
        masks = Masks(prepared.image_shape)
        best: np.ndarray | None = None
        winner = np.zeros(prepared.image_shape, np.int32)
        for channel in range(self._channels):
            full = np.asarray(
                resample(logits[channel : channel + 1], prepared.image_shape, prepared.spacing, prepared.image_spacing)
            )[0]
            if self._model.labels.has_regions:
                masks.add(channel, 0, full > 0)
            elif best is None:
                best = full
            else:
                better = full > best
                winner[better] = channel
                best[better] = full[better]
        return masks if self._model.labels.has_regions else Winners(self._channels, winner)

    def _logits(self, prepared: Prepared) -> Float[np.ndarray, "classes z y x"]:
        from acvl_utils.cropping_and_padding.padding import pad_nd_image
        from nnunetv2.inference.sliding_window_prediction import compute_gaussian, compute_steps_for_sliding_window

        patch = list(self._model.configuration.patch_size)
        data, revert = pad_nd_image(prepared.data, patch, "constant", {"value": 0}, True, None)
        gaussian = compute_gaussian(tuple(patch), 1 / 8, 10, torch.float16, torch.device("cpu")).float()
        steps = compute_steps_for_sliding_window(data.shape[-len(patch) :], patch, self._step_size)
        if len(patch) == 2:
            steps = [list(range(data.shape[1])), *steps]
            patch = [1, *patch]
        total = torch.zeros((self._channels, *data.shape[1:]))
        weight = torch.zeros(data.shape[1:])
        with torch.inference_mode():
            for z in steps[0]:
                for y in steps[1]:
                    for x in steps[2]:
                        where = tuple(slice(a, a + p) for a, p in zip((z, y, x), patch, strict=True))
                        everywhere = (slice(None), *where)
                        window = data[everywhere][None]
                        if self._model.is_2d:
                            logits = self._network(window[:, :, 0])[0][:, None]
                        else:
                            logits = self._network(window)[0]
                        total[everywhere] += logits * gaussian
                        weight[where] += gaussian
        inside = (slice(None), *revert[1:])
        return (total / weight)[inside].numpy()
