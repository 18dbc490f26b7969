"""Predicting cases that nnU-Net has preprocessed already, with label maps as stock writes them."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Integer
from torch import nn
from tqdm import tqdm

from nnunetv2_ext.inference.deciding.outputs import plan_outputs
from nnunetv2_ext.inference.deciding.rules import Decisions
from nnunetv2_ext.inference.model.folder import Model
from nnunetv2_ext.inference.model.heads import segmentation_heads, select_heads
from nnunetv2_ext.inference.modes import Mode
from nnunetv2_ext.inference.multi_head.groups import has_heads, head_of_classes
from nnunetv2_ext.inference.preparing.nnunet import NnunetPreprocessing
from nnunetv2_ext.inference.preparing.protocol import Prepared
from nnunetv2_ext.inference.segmentation import Segmenter


class PreprocessedCases:
    """From preprocessed images to label maps.

    Args:
        model: The networks; its folder and checkpoints are not looked at.
        mode: How to predict.
        device: Where the network runs.
        on_device: Add windows up there, too.
        classes: Which classes to predict; all by default.

    Attributes:
        channels: Output channels of these classes where the others are not computed, else None.
        preprocessing: From image to network and back.
        segmenter: From what was prepared to decisions.
    """

    def __init__(
        self,
        model: Model,
        mode: Mode,
        device: torch.device,
        *,
        on_device: bool = True,
        classes: Iterable[str] | None = None,
    ) -> None:
        labels = model.labels
        heads: tuple[int] | None = None
        if has_heads(model):
            model, plan, heads = head_of_classes(model, model.class_names if classes is None else classes)
        else:
            plan = plan_outputs(
                model.dataset_json,
                model.class_names,
                model.painted_values,
                has_regions=labels.has_regions,
                classes=classes,
            )
        if plan.channels is not None:
            model = replace(model, networks=[_of_channels(network, plan.channels) for network in model.networks])
        self.channels = plan.channels
        self.preprocessing = NnunetPreprocessing(model, mode)
        self.segmenter = Segmenter(model, mode, plan, device, on_device=on_device, heads=heads)
        self._output = plan.maps[0]
        self._dtype = np.uint8 if len(labels.foreground_labels) < 255 else np.uint16

    def __call__(
        self, data: Float32[torch.Tensor, "channels z y x"], properties: Mapping[str, Any], *, show_progress: bool
    ) -> Integer[np.ndarray, "z y x"]:
        """The label map of a preprocessed image, in the axis order of its file, of stock's type."""
        prepared = self.preprocessing.of_preprocessed(data, properties)
        with tqdm(
            total=self.segmenter.num_windows(prepared), unit="window", leave=False, disable=not show_progress
        ) as bar:
            decisions = self.segmenter(prepared, bar.update)
        return self.label_map(decisions, prepared)

    def label_map(self, decisions: Decisions, prepared: Prepared) -> Integer[np.ndarray, "z y x"]:
        """The label map of what was decided on the grid of the image."""
        return self.preprocessing.restore(self.painted(decisions), prepared)

    def painted(self, decisions: Decisions) -> Integer[np.ndarray, "z y x"]:
        """The label map of what was decided on any grid, of stock's type."""
        return decisions.paint(self._output).astype(self._dtype, copy=False)


def sharing_weights(network: nn.Module, weights: Mapping[str, torch.Tensor] | None = None) -> nn.Module:
    """A network in evaluation mode with the tensors of another one, or with these weights."""
    tensors = network.state_dict(keep_vars=True)
    copied: nn.Module = copy.deepcopy(network, {id(tensor): tensor for tensor in tensors.values()})
    if weights is not None:
        copied.load_state_dict(weights, assign=True)
    return copied.eval()


class _SomeOutputs(nn.Module):
    """A network whose other outputs are computed and left out."""

    def __init__(self, network: nn.Module, channels: Sequence[int]) -> None:
        super().__init__()
        self.network = network
        self._channels = list(channels)

    def forward(self, image: Float[torch.Tensor, "batch channels *patch"]) -> Float[torch.Tensor, "batch some *patch"]:
        logits: torch.Tensor = self.network(image)
        return logits[:, self._channels]


def _of_channels(network: nn.Module, channels: Sequence[int]) -> nn.Module:
    has_heads = segmentation_heads(network) is not None
    return select_heads(network, channels) if has_heads else _SomeOutputs(network, channels)
