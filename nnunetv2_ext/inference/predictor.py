"""Predicting from Python: one image in, its label map out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch

from nnunetv2_ext.images.reading import Case, Scan, check_scan, read_scan, scan_of_array, scan_of_image
from nnunetv2_ext.inference.cases import find_cases
from nnunetv2_ext.inference.deciding.components import keep_largest_of, read_postprocessing
from nnunetv2_ext.inference.deciding.outputs import OutputMap, plan_outputs
from nnunetv2_ext.inference.deciding.rules import Decisions
from nnunetv2_ext.inference.deciding.softmax_heads import plan_head_outputs
from nnunetv2_ext.inference.model.folder import Model, read_model
from nnunetv2_ext.inference.modes import Mode
from nnunetv2_ext.inference.multi_head.groups import chosen_sources, has_heads, heads_of_sources, model_of_sources
from nnunetv2_ext.inference.parts import PredictorSettings, assemble, find_device
from nnunetv2_ext.inference.preparing.protocol import Prepared
from nnunetv2_ext.inference.segmentation import LogitsVisitor, Progress
from nnunetv2_ext.utilities.errors import UserError

if TYPE_CHECKING:
    import SimpleITK

    from nnunetv2_ext.inference.pipeline import Outcome
    from nnunetv2_ext.inference.prediction_run import PredictionOptions


class Predictor:
    """A model that is ready to predict.

    Example:
        ```python
        from nnunetv2_ext.inference import Predictor

        predictor = Predictor.from_model_folder("Dataset001_Organs/nnUNetTrainer__nnUNetPlans__3d_fullres")
        label_map = predictor.predict("ct.nii.gz")  # a SimpleITK image on the grid of ct.nii.gz
        labels = predictor.predict(array, spacing=(3.0, 0.8, 0.8))  # arrays are (z, y, x), spacings too
        predictor.predict_folder("images", "label_maps")
        ```

    Args:
        model: What to predict with; see `from_model_folder`.
        settings: How.

    Raises:
        UserError: A class, mode, device or type does not exist or does not suit the model, or OpenVINO is asked for and
            not installed.
    """

    def __init__(self, model: Model, settings: PredictorSettings | None = None) -> None:
        self.settings = settings = settings or PredictorSettings()
        self.device = find_device(settings.device)
        if has_heads(model) and settings.level is None and settings.nodes is None:
            sources = chosen_sources(model, settings.heads)
            self.plan = plan_head_outputs(
                {source: head for source, (_, head) in heads_of_sources(model).items()},
                kind=settings.outputs,
                classes=settings.classes,
                chosen=sources,
            )
            model = model_of_sources(model, sources)
        elif settings.heads is not None and not has_heads(model):
            raise UserError("Expected a model with a head per source for --heads, but this one has one; leave it out.")
        else:
            self.plan = plan_outputs(
                model.dataset_json,
                model.class_names,
                model.painted_values,
                has_regions=model.labels.has_regions,
                kind=settings.outputs or "merged",
                classes=settings.classes,
                level=settings.level,
                nodes=settings.nodes,
            )
        self.model = model
        largest = settings.keep_largest
        self.postprocessing = (
            read_postprocessing(largest, self.plan)
            if isinstance(largest, Path)
            else keep_largest_of(self.plan, largest)
        )
        self.mode, self.backend, self.preprocessing, self.segmenter = assemble(model, self.plan, self.device, settings)

    @classmethod
    def from_model_folder(
        cls,
        folder: Path | str,
        *,
        folds: Sequence[str | int] | None = None,
        checkpoint_name: str = "checkpoint_final.pth",
        mode: str | Mode = "accurate",
        step_size: float | None = None,
        mirroring: bool | None = None,
        sums: str | None = None,
        precision: str = "auto",
        device: str | torch.device | None = None,
        backend: str = "torch",
        outputs: str | None = None,
        classes: Iterable[str] | None = None,
        on_device: bool = True,
        level: int | None = None,
        nodes: Iterable[str] | None = None,
        keep_largest: Iterable[str] | Path = (),
        heads: Iterable[str] | None = None,
        orientation: str = "training",
    ) -> Predictor:
        """Reads a model folder of this package or of stock nnU-Net.

        The folder holds plans.json, dataset.json and ``fold_*/<checkpoint_name>``. ``folds`` are averaged, all that
        are there by default; all other options are those of `PredictorSettings`.

        Raises:
            UserError: See `read_model` and `Predictor`.
        """
        settings = PredictorSettings(
            mode=mode,
            step_size=step_size,
            mirroring=mirroring,
            sums=sums,
            precision=precision,
            device=device,
            backend=backend,
            outputs=outputs,
            classes=None if classes is None else frozenset(classes),
            on_device=on_device,
            level=level,
            nodes=None if nodes is None else tuple(nodes),
            keep_largest=keep_largest if isinstance(keep_largest, Path) else tuple(keep_largest),
            heads=None if heads is None else tuple(heads),
            orientation=orientation,
        )
        return cls(read_model(folder, folds, checkpoint_name), settings)

    @overload
    def predict(
        self, image: np.ndarray, spacing: Sequence[float], *, previous_stage: np.ndarray | None = None
    ) -> np.ndarray | dict[str, np.ndarray]: ...

    @overload
    def predict(
        self,
        image: Path | str | SimpleITK.Image,
        spacing: None = None,
        *,
        previous_stage: Path | str | SimpleITK.Image | None = None,
    ) -> SimpleITK.Image | dict[str, SimpleITK.Image]: ...

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

    def predict_folder(
        self, source: Path | str, target: Path | str, options: PredictionOptions | None = None
    ) -> Outcome[Case]:
        """Predicts many images from files to files, as ``nnUNetv2_ext_predict`` does.

        Args:
            source: See `find_cases`.
            target: The output folder; or the output file, for one image and merged outputs.
            options: How to run.

        Returns:
            Which cases succeeded and which failed.

        Raises:
            UserError: See `PredictionRun`.
        """
        from nnunetv2_ext.inference.prediction_run import PredictionRun

        return PredictionRun(self, source, target, options).run()

    def prepare(self, scan: Scan, previous_stage: Scan | None = None) -> Prepared:
        """First stage: what the network sees.

        Raises:
            UserError: A cascade's second stage lacks the previous stage's label map, or it lies on another grid.
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
        return self.postprocessing(self.preprocessing.restore(decisions.paint(output), prepared), output)

    def _scan(self, image: Any, spacing: Sequence[float] | None, channels: int) -> Scan:
        if isinstance(image, np.ndarray):
            if spacing is None:
                raise UserError("Expected the spacing of the array along (z, y, x) in mm, but got none.")
            return scan_of_array(image, spacing)
        if not isinstance(image, str | Path):
            return scan_of_image(image)
        cases = find_cases(image, channels, self.model.file_ending)
        if len(cases) != 1:
            raise UserError(f"Expected one image in {image}, but found {len(cases)}; predict them one by one.")
        return read_scan(cases[0], channels, admit_2d=self.model.is_2d)
