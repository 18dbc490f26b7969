"""What a predictor is made of: preparing and segmenting, in the way that the model was trained for."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from nnunetv2_ext.inference.bundles.preparing import BundlePreprocessing
from nnunetv2_ext.inference.bundles.profile import read_profile
from nnunetv2_ext.inference.bundles.segmenter import BundleSegmenter
from nnunetv2_ext.inference.deciding.outputs import OutputPlan
from nnunetv2_ext.inference.model.folder import Model
from nnunetv2_ext.inference.model.heads import select_heads
from nnunetv2_ext.inference.model.openvino import run_by
from nnunetv2_ext.inference.modes import PRECISIONS, Mode, chosen_mode
from nnunetv2_ext.inference.preparing.nnunet import NnunetPreprocessing
from nnunetv2_ext.inference.preparing.protocol import Preprocessing
from nnunetv2_ext.inference.segmentation import Segmenter
from nnunetv2_ext.utilities.errors import UserError

#: What ``-device`` admits, alone or with a number.
DEVICES = ("cuda", "cpu", "mps")


@dataclass(frozen=True)
class Parts:
    """A way of predicting, put together.

    Attributes:
        mode: What holds of the modes.
        backend: What runs the network.
        preprocessing: From image to network and back.
        segmenter: From what was prepared to decisions.
    """

    mode: Mode
    backend: str
    preprocessing: Preprocessing
    segmenter: Segmenter | BundleSegmenter


def assemble(
    model: Model,
    plan: OutputPlan,
    device: torch.device,
    *,
    mode: str | Mode,
    step_size: float | None,
    mirroring: bool | None,
    sums: str | None,
    precision: str,
    backend: str,
    on_device: bool,
) -> Parts:
    """Puts the parts of a predictor together; the options are those of `Predictor`.

    Raises:
        UserError: An option does not exist, or does not suit the model.
    """
    chosen = chosen_mode(mode, step_size=step_size, mirroring=mirroring, sums=sums)
    if precision not in PRECISIONS:
        raise UserError(f"Expected one of {', '.join(PRECISIONS)} as the precision, but got {precision!r}.")
    if plan.channels is not None:
        # The model given keeps all its heads: it may serve other predictors.
        model = replace(model, networks=[select_heads(network, plan.channels) for network in model.networks])
    profile = read_profile(model.folder)
    window = model.configuration.patch_size if profile is None else profile.window_size
    model, backend = run_by(backend, model, window, device, precision)
    if profile is None:
        segmenter = Segmenter(model, chosen, plan, device, on_device=on_device, precision=PRECISIONS[precision])
        return Parts(chosen, backend, NnunetPreprocessing(model, chosen), segmenter)
    # A bundle brings its own inference, which the modes do not vary.
    for given, flag in ((mode != "accurate", "--mode"), (step_size is not None, "-step_size")):
        if given:
            raise UserError(f"Expected no {flag} for a MONAI bundle, which brings its own inference; leave {flag} out.")
    if sums == "float16":
        raise UserError(
            "Expected --sums float32 for a MONAI bundle, which adds windows up in float32 itself, but got float16; "
            "leave --sums out."
        )
    preprocessing = BundlePreprocessing(profile)
    bundle_segmenter = BundleSegmenter(
        profile,
        preprocessing,
        model.networks,
        model.labels.num_segmentation_heads,
        device,
        on_device=on_device,
        precision=PRECISIONS[precision],
    )
    return Parts(replace(chosen, sums="float32"), backend, preprocessing, bundle_segmenter)


def find_device(device: str | torch.device | None) -> torch.device:
    """The device that was asked for; by default CUDA where there is one, else the CPU.

    Raises:
        UserError: There is no such device.
    """
    try:
        chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError:
        chosen = torch.device("meta")
    if chosen.type not in DEVICES:
        raise UserError(f"Expected one of {', '.join(DEVICES)} (or cuda:1 and so on) as the device, but got {device}.")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count() or "none"
        raise UserError(f"Expected a CUDA device for -device {chosen}, but torch finds {found}; pass another.")
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise UserError("Expected an Apple GPU for -device mps, but torch finds none; pass -device cpu.")
    return chosen
