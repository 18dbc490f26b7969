"""The three ways to weigh time against accuracy."""

from __future__ import annotations

from dataclasses import dataclass


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
    """

    mirroring: bool
    step_size: float
    linear_image: bool
    skip_air: bool
    nearest_label_map: bool


MODES = {
    # The result of nnUNetv2_predict.
    "accurate": Mode(mirroring=True, step_size=0.5, linear_image=False, skip_air=False, nearest_label_map=False),
    "fast": Mode(mirroring=False, step_size=0.5, linear_image=True, skip_air=True, nearest_label_map=False),
    "fastest": Mode(mirroring=False, step_size=0.8, linear_image=True, skip_air=True, nearest_label_map=True),
}
