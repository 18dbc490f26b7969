"""The three ways to weigh time against accuracy."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from nnunetv2_ext.utilities.errors import UserError


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

#: Types that networks can compute in; auto is what stock does: float16 on CUDA, float32 elsewhere.
PRECISIONS = {"auto": None, **SUMS, "bfloat16": torch.bfloat16}

MODES = {
    # The result of nnUNetv2_predict.
    "accurate": Mode(
        mirroring=True, step_size=0.5, linear_image=False, skip_air=False, nearest_label_map=False, sums="float16"
    ),
    # These differ from stock anyway, so nothing is gained by its rounding: float32 is closer to what the network says.
    "fast": Mode(mirroring=False, step_size=0.5, linear_image=True, skip_air=True, nearest_label_map=False),
    "fastest": Mode(mirroring=False, step_size=0.8, linear_image=True, skip_air=True, nearest_label_map=True),
}


def chosen_mode(mode: str | Mode, *, step_size: float | None, mirroring: bool | None, sums: str | None) -> Mode:
    """A mode, with what was asked for beside it in place of its own.

    Raises:
        UserError: There is no such mode or type of sums, or the step size is none.
    """
    for given, admitted, noun in ((mode, MODES, "mode"), (sums, SUMS, "type of sums")):
        if isinstance(given, str) and given not in admitted:
            raise UserError(f"Expected one of {', '.join(admitted)} as the {noun}, but got {given!r}.")
    own = MODES[mode] if isinstance(mode, str) else mode
    step_size = own.step_size if step_size is None else step_size
    if not 0 < step_size <= 1:
        raise UserError(f"Expected a step size above 0 and up to 1, but got {step_size}.")
    mirroring = own.mirroring if mirroring is None else mirroring
    return replace(own, step_size=step_size, mirroring=mirroring, sums=sums or own.sums)
