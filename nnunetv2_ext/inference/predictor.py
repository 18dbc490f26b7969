"""Predicting from Python: one image in, its label map out."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch

from nnunetv2_ext.images.reading import Scan, check_scan, read_scan, scan_of_array, scan_of_image
from nnunetv2_ext.inference.bundles.preparing import BundlePreprocessing
from nnunetv2_ext.inference.bundles.profile import read_profile
from nnunetv2_ext.inference.bundles.segmenter import BundleSegmenter
from nnunetv2_ext.inference.cases import Case, find_cases
from nnunetv2_ext.inference.deciding.outputs import OutputMap, OutputPlan, plan_outputs
from nnunetv2_ext.inference.deciding.rules import Decisions, background_logits, rule_of_cases
from nnunetv2_ext.inference.deciding.tree_outputs import (
    check_tree_choice,
    has_label_tree,
    plan_node_masks,
    plan_tree_outputs,
)
from nnunetv2_ext.inference.model.folder import Model, WindowNetwork, read_model, select_heads
from nnunetv2_ext.inference.model.openvino import OpenVinoNetwork, cache_folder, openvino_is_installed
from nnunetv2_ext.inference.modes import MODES, SUMS, Mode
from nnunetv2_ext.inference.preparing.nnunet import NnunetPreprocessing, Prepared, Preprocessing
from nnunetv2_ext.inference.segmentation import LogitsVisitor, Progress, Segmenter
from nnunetv2_ext.utilities.errors import UserError

if TYPE_CHECKING:
    import SimpleITK

_logger = logging.getLogger(__name__)

#: What ``--backend`` admits.
BACKENDS = ("torch", "openvino", "auto")

#: What ``-device`` admits.
DEVICES = ("cuda", "cpu", "mps")


class Predictor:
    """A model that is ready to predict.

    Example:
        ```python
        from nnunetv2_ext.inference import Predictor

        predictor = Predictor.from_model_folder("Dataset001_Organs/nnUNetTrainer__nnUNetPlans__3d_fullres")
        label_map = predictor.predict("ct.nii.gz")  # a SimpleITK image on the grid of ct.nii.gz
        labels = predictor.predict(array, spacing=(3.0, 0.8, 0.8))  # arrays are (z, y, x), spacings too
        ```

    Args:
        model: What to predict with; see `from_model_folder`.
        mode: One of `MODES`, or a `Mode`.
        step_size: Instead of the mode's.
        mirroring: Instead of the mode's.
        sums: Type in which overlapping windows are added up, ``"float16"`` or ``"float32"``, instead of the mode's.
        device: ``"cuda"``, ``"cpu"``, ``"mps"``, or with a number; by default CUDA where there is a device.
        backend: ``"torch"``, ``"openvino"`` (CPU only), or ``"auto"``: OpenVINO where it is installed and the device is
            the CPU.
        outputs: ``"merged"``, ``"per_source"`` or ``"per_class"``.
        classes: Which classes to predict; all by default.
        on_device: Add windows up on the device; False for devices with little memory.
        level: For models with a label tree: write the nodes of this level instead of leaves.
        nodes: For models with a label tree: write these nodes.

    Raises:
        UserError: A class, mode, device or type of sums does not exist or does not suit the model, or OpenVINO is asked
            for and not installed.
    """

    def __init__(
        self,
        model: Model,
        *,
        mode: str | Mode = "accurate",
        step_size: float | None = None,
        mirroring: bool | None = None,
        sums: str | None = None,
        device: str | torch.device | None = None,
        backend: str = "torch",
        outputs: str = "merged",
        classes: Iterable[str] | None = None,
        on_device: bool = True,
        level: int | None = None,
        nodes: Collection[str] | None = None,
    ) -> None:
        if isinstance(mode, str) and mode not in MODES:
            raise UserError(f"Expected one of {', '.join(MODES)} as the mode, but got {mode!r}.")
        self.model = model
        self.mode = MODES[mode] if isinstance(mode, str) else mode
        self.device = _device(device)
        self.classes = None if classes is None else frozenset(classes)
        self.plan: OutputPlan = self._plan_outputs(outputs, level, nodes)
        if self.plan.channels is not None:
            # The model given keeps all its heads: it may serve other predictors.
            networks = [select_heads(network, self.plan.channels) for network in model.networks]
            self.model = model = replace(model, networks=networks)
        self.step_size = self.mode.step_size if step_size is None else step_size
        if not 0 < self.step_size <= 1:
            raise UserError(f"Expected a step size above 0 and up to 1, but got {self.step_size}.")
        mirroring = self.mode.mirroring if mirroring is None else mirroring
        profile = read_profile(model.folder)
        self.sums = self._choose_sums(sums, is_bundle=profile is not None)
        networks, self.backend = self._run_by(backend)
        # Stock averages the finished logits of folds. In float16 that is rounded otherwise than the mean of windows.
        folds = [[network] for network in networks] if self.sums == "float16" else [networks]
        mirror_axes = model.mirror_axes if mirroring else None
        window_networks = [WindowNetwork(fold, mirror_axes) for fold in folds]
        has_regions = model.labels.has_regions
        channels = len(self.plan.channels) if self.plan.channels else model.labels.num_segmentation_heads
        rule = rule_of_cases(self.plan, channels, has_regions=has_regions)
        fill = background_logits(channels, has_regions=has_regions)
        self.preprocessing: Preprocessing
        self.segmenter: Segmenter | BundleSegmenter
        if profile is None:
            self.preprocessing = NnunetPreprocessing(
                model, linear=self.mode.linear_image, find_content=self.mode.skip_air
            )
            self.segmenter = Segmenter(
                model,
                rule,
                fill,
                window_networks,
                self.step_size,
                self.device,
                on_device=on_device,
                nearest_label_map=self.mode.nearest_label_map,
                sums=SUMS[self.sums],
            )
        else:
            # A bundle brings its own inference, which the modes do not vary.
            (network,) = window_networks
            self.preprocessing = preprocessing = BundlePreprocessing(profile)
            self.segmenter = BundleSegmenter(profile, preprocessing, network, fill, self.device, on_device=on_device)

    def _choose_sums(self, sums: str | None, *, is_bundle: bool) -> str:
        if sums is not None and sums not in SUMS:
            raise UserError(f"Expected one of {', '.join(SUMS)} as the type of sums, but got {sums!r}.")
        if is_bundle:
            if sums == "float16":
                raise UserError(
                    "Expected --sums float32 for a MONAI bundle, which adds windows up in float32 itself, but got "
                    "float16; leave --sums out."
                )
            return "float32"
        return self.mode.sums if sums is None else sums

    def _plan_outputs(self, outputs: str, level: int | None, nodes: Collection[str] | None) -> OutputPlan:
        model = self.model
        if level is not None or nodes is not None:
            if outputs != "merged" or self.classes is not None:
                raise UserError("Expected --level or --nodes without --outputs and --classes, but got both.")
            return plan_tree_outputs(model.dataset_json, level, nodes)
        if has_label_tree(model.dataset_json):
            check_tree_choice(model.dataset_json, outputs, self.classes)
            if outputs == "merged" and self.classes is None:
                return plan_tree_outputs(model.dataset_json)
            if outputs == "per_class":
                return plan_node_masks(model.dataset_json, self.classes)
        return plan_outputs(
            model.dataset_json,
            model.class_names,
            model.painted_values,
            has_regions=model.labels.has_regions,
            kind=outputs,
            classes=self.classes,
        )

    @classmethod
    def from_model_folder(
        cls,
        folder: Path | str,
        *,
        folds: Sequence[str | int] | None = None,
        checkpoint_name: str = "checkpoint_final.pth",
        **options: Any,
    ) -> Predictor:
        """Reads a model folder of this package or of stock nnU-Net.

        Args:
            folder: Holds plans.json, dataset.json and ``fold_*/<checkpoint_name>``.
            folds: Which folds to average; all that are there by default.
            checkpoint_name: For example ``checkpoint_best.pth``.
            **options: What `Predictor` takes.

        Raises:
            UserError: See `read_model` and `Predictor`.
        """
        return cls(read_model(folder, folds, checkpoint_name), **options)

    @overload
    def predict(self, image: Path | str, spacing: None = None) -> Any: ...

    @overload
    def predict(self, image: SimpleITK.Image, spacing: None = None) -> Any: ...

    @overload
    def predict(self, image: np.ndarray, spacing: Sequence[float]) -> Any: ...

    def predict(self, image: Any, spacing: Sequence[float] | None = None, *, previous_stage: Any = None) -> Any:
        """Predicts one image.

        Args:
            image: A path (image file, or folder of one DICOM series), a SimpleITK image, or an array ``(z, y, x)`` or
                ``(channels, z, y, x)``.
            spacing: mm along (z, y, x), for arrays.
            previous_stage: The previous stage's label map, of the same kind as ``image``, for the second stage of a
                cascade.

        Returns:
            A SimpleITK image on the grid of the input for paths and images, an array ``(z, y, x)`` for arrays. With
            ``outputs="per_source"`` or ``"per_class"`` a dictionary of them by source or class.

        Raises:
            UserError: The image cannot be read or does not fit the model.
        """
        scan = self._scan(image, spacing, self.model.image_channels)
        check_scan(scan, self.model.image_channels, admit_2d=self.model.is_2d)
        previous = None if previous_stage is None else self._scan(previous_stage, spacing, 1)
        prepared = self.prepare(scan, previous)
        decisions = self.segment(prepared)
        maps = {output.name: self.paint(decisions, output, prepared) for output in self.plan.maps}
        results = {
            name: labels if isinstance(image, np.ndarray) else scan.grid.image(labels) for name, labels in maps.items()
        }
        return results[""] if self.plan.kind == "merged" else results

    def prepare(self, scan: Scan, previous_stage: Scan | None = None) -> Prepared:
        """First stage: what the network sees.

        Raises:
            UserError: A cascade's second stage lacks the previous stage's label map, or its shape differs.
        """
        needed = self.model.configuration.previous_stage_name
        if needed is not None and previous_stage is None:
            raise UserError(
                f"Expected the label map of the previous stage ({needed}) for {scan.identifier}; predict that stage "
                "first and pass its folder as -prev_stage_predictions."
            )
        return self.preprocessing.prepare(scan, previous_stage if needed is not None else None)

    def segment(
        self, prepared: Prepared, progress: Progress | None = None, visit_logits: LogitsVisitor | None = None
    ) -> Decisions:
        """Second stage: the network, and what it decides for every voxel; arguments as `Segmenter`'s."""
        return self.segmenter(prepared, progress, visit_logits)

    def paint(self, decisions: Decisions, output: OutputMap, prepared: Prepared) -> np.ndarray:
        """Third stage: one label map ``(z, y, x)`` on the grid of the image."""
        return self.preprocessing.restore(decisions.paint(output), prepared)

    def _scan(self, image: Any, spacing: Sequence[float] | None, channels: int) -> Scan:
        if isinstance(image, np.ndarray):
            if spacing is None:
                raise UserError("Expected the spacing of the array along (z, y, x) in mm, but got none.")
            return scan_of_array(image, spacing)
        if isinstance(image, str | Path):
            return read_scan(self._only_case(Path(image), channels), channels, admit_2d=self.model.is_2d)
        return scan_of_image(image)

    def _only_case(self, path: Path, channels: int) -> Case:
        cases = find_cases(path, channels, self.model.file_ending)
        if len(cases) != 1:
            raise UserError(f"Expected one image in {path}, but found {len(cases)}; predict them one by one.")
        return cases[0]

    def _run_by(self, backend: str) -> tuple[list[torch.nn.Module], str]:
        """The networks behind the backend that was asked for, and which one that is."""
        if backend not in BACKENDS:
            raise UserError(f"Expected one of {', '.join(BACKENDS)} as the backend, but got {backend!r}.")
        on_cpu = self.device.type == "cpu"
        if backend == "openvino" and not on_cpu:
            raise UserError(f"Expected -device cpu with --backend openvino, but got {self.device.type}.")
        if backend == "torch" or (backend == "auto" and not (on_cpu and openvino_is_installed())):
            return self.model.networks, "torch"
        if backend == "auto":
            _logger.info("Running the network with OpenVINO, which is installed (--backend torch does without).")
        shape = (self._input_channels(), *self.model.configuration.patch_size)
        cache = cache_folder(self.model.folder)
        keys = self.model.sha256().values()
        return [
            OpenVinoNetwork(network, shape, cache, key) for network, key in zip(self.model.networks, keys, strict=True)
        ], "openvino"

    def _input_channels(self) -> int:
        from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels

        model = self.model
        return int(determine_num_input_channels(model.plans, model.configuration, model.dataset_json))


def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    chosen = torch.device(device)
    if chosen.type not in DEVICES:
        raise UserError(f"Expected one of {', '.join(DEVICES)} as the device, but got {chosen.type}.")
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise UserError("Expected a CUDA device, but torch finds none; pass -device cpu.")
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise UserError("Expected an Apple GPU for -device mps, but torch finds none; pass -device cpu.")
    return chosen
