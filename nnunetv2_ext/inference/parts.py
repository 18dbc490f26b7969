"""What a predictor is made of: preparing and segmenting, in the way that the model was trained for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from nnunetv2_ext.inference.bundles.preparing import BundlePreprocessing
from nnunetv2_ext.inference.bundles.profile import read_profile
from nnunetv2_ext.inference.bundles.segmenter import BundleSegmenter
from nnunetv2_ext.inference.deciding.outputs import OutputPlan
from nnunetv2_ext.inference.deciding.rules import rule_of_cases
from nnunetv2_ext.inference.model.folder import Model
from nnunetv2_ext.inference.model.heads import select_heads
from nnunetv2_ext.inference.model.openvino import run_by
from nnunetv2_ext.inference.modes import PRECISIONS, Mode, chosen_mode
from nnunetv2_ext.inference.multi_head.groups import has_heads
from nnunetv2_ext.inference.multi_head.parts import passes_of_heads
from nnunetv2_ext.inference.multi_head.predicting import PreprocessingOfPasses, SegmenterOfPasses
from nnunetv2_ext.inference.preparing.nnunet import NnunetPreprocessing
from nnunetv2_ext.inference.preparing.protocol import Preprocessing
from nnunetv2_ext.inference.segmentation import Segmenter
from nnunetv2_ext.utilities.errors import UserError

#: What ``-device`` admits, alone or with a number.
DEVICES = ("cuda", "cpu", "mps")

#: What ``--orientation`` admits.
ORIENTATIONS = ("training", "file")


@dataclass(frozen=True)
class PredictorSettings:
    """How a model predicts, and what.

    Attributes:
        mode: One of `MODES`, or a `Mode`.
        step_size: Instead of the mode's.
        mirroring: Instead of the mode's.
        sums: Type in which overlapping windows are added up, ``"float16"`` or ``"float32"``, instead of the mode's.
        precision: What the network computes in, ``"float32"``, ``"bfloat16"`` or ``"float16"``; ``"auto"`` is what
            nnU-Net does, float16 on CUDA and float32 elsewhere.
        device: ``"cuda"``, ``"cpu"``, ``"mps"``, or with a number; by default CUDA where there is a device.
        backend: ``"torch"``, ``"openvino"`` (CPU only), or ``"auto"``: OpenVINO where it is installed and the device is
            the CPU.
        outputs: ``"merged"``, ``"per_source"`` or ``"per_class"``; by default merged, and per source for models with a
            head per source.
        classes: Which classes to predict; all by default.
        on_device: Add windows up on the device; False for devices with little memory.
        level: For models with a label tree: write the nodes of this level instead of leaves.
        nodes: For models with a label tree: write these nodes.
        keep_largest: Classes of which only the largest connected component stays; or nnU-Net's ``postprocessing.pkl``.
        heads: For models with a head per source: predict these only, by their IDs or the names of the sources.
        orientation: ``"training"``: scans are turned as the images of the training lay, where the model records that,
            and label maps back; arrays, of which nobody knows how they lie, are taken as they are. ``"file"``: nothing
            is turned that nnU-Net does not turn.
    """

    mode: str | Mode = "accurate"
    step_size: float | None = None
    mirroring: bool | None = None
    sums: str | None = None
    precision: str = "auto"
    device: str | torch.device | None = None
    backend: str = "torch"
    outputs: str | None = None
    classes: frozenset[str] | None = None
    on_device: bool = True
    level: int | None = None
    nodes: tuple[str, ...] | None = None
    keep_largest: tuple[str, ...] | Path = ()
    heads: tuple[str, ...] | None = None
    orientation: str = "training"


def assemble(
    model: Model, plan: OutputPlan, device: torch.device, settings: PredictorSettings
) -> tuple[Mode, str, Preprocessing, Segmenter | BundleSegmenter | SegmenterOfPasses]:
    """Puts the parts of a predictor together.

    Returns:
        What holds of the modes; what runs the network; from image to network and back; from what was prepared to
        decisions.

    Raises:
        UserError: A setting does not exist, or does not suit the model.
    """
    mode = chosen_mode(settings.mode, step_size=settings.step_size, mirroring=settings.mirroring, sums=settings.sums)
    if settings.precision not in PRECISIONS:
        raise UserError(f"Expected one of {', '.join(PRECISIONS)} as the precision, but got {settings.precision!r}.")
    precision = PRECISIONS[settings.precision]
    if settings.orientation not in ORIENTATIONS:
        raise UserError(
            f"Expected one of {', '.join(ORIENTATIONS)} as the orientation, but got {settings.orientation!r}."
        )
    turning = settings.orientation == "training"
    if plan.channels is not None:
        # The model given keeps all its heads: it may serve other predictors.
        model = replace(model, networks=[select_heads(network, plan.channels) for network in model.networks])
    if has_heads(model):
        passes, backend = passes_of_heads(
            model,
            plan,
            device,
            mode,
            precision=settings.precision,
            backend=settings.backend,
            on_device=settings.on_device,
            turning=turning,
        )
        return mode, backend, PreprocessingOfPasses(passes), SegmenterOfPasses(passes)
    profile = read_profile(model.folder)
    window = model.configuration.patch_size if profile is None else profile.window_size
    model, backend = run_by(settings.backend, model, window, device, settings.precision)
    if profile is None:
        segmenter = Segmenter(model, mode, plan, device, on_device=settings.on_device, precision=precision)
        return mode, backend, NnunetPreprocessing(model, mode, turning=turning), segmenter
    # A bundle brings its own inference, which the modes do not vary.
    for given, flag in (
        (settings.mode != "accurate", "--mode"),
        (settings.step_size is not None, "-step_size"),
        (not turning, "--orientation"),
    ):
        if given:
            raise UserError(f"Expected no {flag} for a MONAI bundle, which brings its own inference; leave {flag} out.")
    if settings.sums == "float16":
        raise UserError(
            "Expected --sums float32 for a MONAI bundle, which adds windows up in float32 itself, but got float16; "
            "leave --sums out."
        )
    preprocessing = BundlePreprocessing(profile)
    channels = model.labels.num_segmentation_heads if plan.channels is None else len(plan.channels)
    has_regions = model.labels.has_regions
    bundle_segmenter = BundleSegmenter(
        profile,
        preprocessing,
        model.networks,
        channels,
        device,
        regions=rule_of_cases(plan, channels, has_regions=True) if has_regions else None,
        on_device=settings.on_device,
        precision=precision,
    )
    return replace(mode, sums="float32"), backend, preprocessing, bundle_segmenter


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


def find_devices(device: str | torch.device | None, number: int) -> list[str]:
    """A device for each of several processes: the first GPUs, or the CPU so many times.

    Raises:
        UserError: There are fewer GPUs, or one device is named.
    """
    chosen = torch.device(device or "cuda")
    if chosen.type == "cpu":
        return ["cpu"] * number
    if chosen != torch.device("cuda"):
        raise UserError(
            f"Expected -device cuda, or cpu, with -num_gpus {number}, which takes the first {number} GPUs, but got "
            f"{chosen}; leave one of the two out."
        )
    if number > torch.cuda.device_count():
        raise UserError(
            f"Expected {number} GPUs for -num_gpus {number}, but torch finds {torch.cuda.device_count() or 'none'}; "
            "pass another number, or -device cpu for processes on the CPU."
        )
    return [f"cuda:{index}" for index in range(number)]
