"""What a predictor of a model with a head per source is made of."""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate
from typing import Any

import torch
from torch import nn

from nnunetv2_ext.inference.deciding.outputs import OutputPlan
from nnunetv2_ext.inference.model.folder import Model
from nnunetv2_ext.inference.model.openvino import run_by
from nnunetv2_ext.inference.modes import PRECISIONS, Mode
from nnunetv2_ext.inference.multi_head.groups import group_heads
from nnunetv2_ext.inference.multi_head.predicting import Pass
from nnunetv2_ext.inference.preparing.nnunet import NnunetPreprocessing
from nnunetv2_ext.inference.segmentation import Segmenter
from nnunetv2_ext.inference.windows.window_network import moved


def passes_of_heads(
    model: Model,
    plan: OutputPlan,
    device: torch.device,
    mode: Mode,
    *,
    precision: str,
    backend: str,
    on_device: bool,
    turning: bool,
) -> tuple[list[Pass], str]:
    """The passes that serve all maps that are wanted, and what runs them; the options are those of `Predictor`."""
    if len(model.networks) == 1:
        # Once, before the passes share it.
        there = moved(model.networks[0], device)
        assert isinstance(there, nn.Module)
        model = replace(model, networks=[there])
    network: Any = model.networks[0]
    ends = accumulate(network.heads.values())
    places = {name: (end - outputs, outputs) for (name, outputs), end in zip(network.heads.items(), ends, strict=True)}
    painted = {channel for output in plan.maps for channel, _ in output.paint}
    needed = [name for name, (begin, outputs) in places.items() if painted & set(range(begin, begin + outputs))]
    passes, used = [], backend
    for group in group_heads(model, needed):
        own, used = run_by(backend, group.model, group.model.configuration.patch_size, device, precision)
        segmenter = Segmenter(
            own, mode, plan, device, heads=group.outputs, on_device=on_device, precision=PRECISIONS[precision]
        )
        channels = tuple(places[name] for name in group.heads)
        passes.append(Pass(NnunetPreprocessing(group.model, mode, turning=turning), segmenter, channels))
    return passes, used
