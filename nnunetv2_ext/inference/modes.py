"""The three ways to weigh time against accuracy."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Mode:
    """What a mode does.

    Attributes:
        mirroring: Average over flips of the axes that the training mirrored.
        step_size: Distance of neighbouring windows as a share of the patch size.
        linear_image: Resample the image linearly instead of by cubic splines.
        skip_air: Leave out windows that hold nothing but air or padding.
        nearest_label_map: Decide labels at the network's spacing and resample them by nearest neighbour, instead of
            resampling logits and deciding at the spacing of the image.
        sums: Type in which overlapping windows are added up, see `SUMS`.
    """

    mirroring: bool
    step_size: float
    linear_image: bool
    skip_air: bool
    nearest_label_map: bool
    sums: str = "float32"


#: Types in which overlapping windows can be added up: float16 as stock does, with its rounding; float32 more exactly.
SUMS = {"float16": torch.float16, "float32": torch.float32}

MODES = {
    # The result of nnUNetv2_predict.
    "accurate": Mode(
        mirroring=True, step_size=0.5, linear_image=False, skip_air=False, nearest_label_map=False, sums="float16"
    ),
    # These differ from stock anyway, so nothing is gained by its rounding: float32 is closer to what the network says.
    "fast": Mode(mirroring=False, step_size=0.5, linear_image=True, skip_air=True, nearest_label_map=False),
    "fastest": Mode(mirroring=False, step_size=0.8, linear_image=True, skip_air=True, nearest_label_map=True),
}
