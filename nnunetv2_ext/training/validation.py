"""The final validation: nnU-Net's files, by this package's sliding window and export.

nnU-Net resamples the logits of all classes of a case before it decides, in worker processes that are handed them: with
105 classes minutes and tens of GB per case. Here labels are decided as the windows come, in this process.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.configuration import default_num_processes
from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder
from nnunetv2.training.dataloading.nnunet_dataset import (
    comp_blosc2_params,
    infer_dataset_class,
    nnUNetDatasetBlosc2,
)
from nnunetv2.utilities.label_handling.label_handling import convert_labelmap_to_one_hot
from torch import distributed
from torch._dynamo import OptimizedModule

from nnunetv2_ext.inference.deciding.rules import Decisions
from nnunetv2_ext.inference.model.folder import Model
from nnunetv2_ext.inference.modes import MODES
from nnunetv2_ext.inference.preparing.protocol import Prepared
from nnunetv2_ext.inference.preprocessed import PreprocessedCases, sharing_weights
from nnunetv2_ext.inference.reporting.probabilities import Probabilities
from nnunetv2_ext.utilities.files import atomic_path
from nnunetv2_ext.utilities.paths import nnunet_folder

#: Cases between two meetings of the ranks, as nnU-Net's: NCCL gives up on ranks that are far behind.
_CASES_BETWEEN_BARRIERS = 20


@dataclass(frozen=True)
class _Case:
    """What the dataset holds of a case."""

    name: str
    data: torch.Tensor
    properties: Mapping[str, Any]
    next_stages: Mapping[str, tuple[int, int, int]]
    """Configuration to the shape of the case there."""


def predict_cases(trainer: Any, cases: Mapping[str, Sequence[str] | None], save_probabilities: bool) -> None:
    """Predicts validation cases into the folder ``validation``; ranks share them as in nnU-Net.

    Args:
        trainer: An initialised trainer.
        cases: Case to the classes that are predicted of it, None for all; equal ones best follow each other.
        save_probabilities: Write ``.npz`` and ``.pkl``, too.
    """
    trainer.set_deep_supervision_enabled(False)
    try:
        _Validation(trainer, save_probabilities).predict(cases)
    finally:
        trainer.set_deep_supervision_enabled(True)
    if trainer.is_ddp:
        distributed.barrier()


def evaluate_folder(trainer: Any) -> dict[str, Any]:
    """Writes ``summary.json`` of the folder ``validation`` and returns its content."""
    labels, folder = trainer.label_manager, validation_folder(trainer)
    metrics: dict[str, Any] = compute_metrics_on_folder(
        str(reference_folder(trainer)),
        str(folder),
        str(folder / "summary.json"),
        trainer.plans_manager.image_reader_writer_class(),
        trainer.dataset_json["file_ending"],
        labels.foreground_regions if labels.has_regions else labels.foreground_labels,
        labels.ignore_label,
        evaluating_processes(trainer, len(list(folder.glob(f"*{trainer.dataset_json['file_ending']}")))),
        chill=True,
    )
    return metrics


def log_summary(trainer: Any, metrics: Mapping[str, Any]) -> None:
    """Tells the loggers and the training log how the validation went."""
    for label, of_label in metrics["mean"].items():
        trainer.logger.log_summary(f"final_val/class_{label}_dice", of_label["Dice"])
    mean = metrics["foreground_mean"]["Dice"]
    trainer.logger.log_summary("final_val/foreground_dice", mean)
    trainer.print_to_log_file("Validation complete", also_print_to_console=True)
    trainer.print_to_log_file("Mean Validation Dice: ", mean, also_print_to_console=True)


def validation_folder(trainer: Any) -> Path:
    """Where label maps and summaries go."""
    return Path(trainer.output_folder) / "validation"


def reference_folder(trainer: Any) -> Path:
    """Where the preprocessed dataset keeps its label maps as they were."""
    return Path(trainer.preprocessed_dataset_folder_base) / "gt_segmentations"


def evaluating_processes(trainer: Any, cases: int) -> int:
    """nnU-Net's number of processes for metrics, but no more than there are cases."""
    ranks = distributed.get_world_size() if trainer.is_ddp else 1
    return max(1, min(default_num_processes * ranks, cases))


class _Validation:
    def __init__(self, trainer: Any, save_probabilities: bool) -> None:
        self._trainer = trainer
        self._save_probabilities = save_probabilities
        self._folder = validation_folder(trainer)
        self._model = Model(
            folder=Path(),
            checkpoints=[],
            plans=trainer.plans_manager,
            configuration=trainer.configuration_manager,
            dataset_json=trainer.dataset_json,
            labels=trainer.label_manager,
            networks=[_network_of(trainer)],
            mirror_axes=trainer.inference_allowed_mirroring_axes,
        )
        self._writer = trainer.plans_manager.image_reader_writer_class()
        self._next_stages = trainer.configuration_manager.next_stage_names or ()

    def predict(self, cases: Mapping[str, Sequence[str] | None]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        for stage in self._next_stages:
            self._next_stage_folder(stage).mkdir(parents=True, exist_ok=True)
        trainer, names, last_meeting = self._trainer, list(cases), len(cases)
        if trainer.is_ddp:
            ranks = distributed.get_world_size()
            last_meeting = len(names) // ranks - 1
            names = names[trainer.local_rank :: ranks]
        segmentation, classes = None, None
        written: deque[Future[None]] = deque()
        with ThreadPoolExecutor(1, "writing") as writing:
            for number, case in enumerate(self._read(names)):
                trainer.print_to_log_file(f"predicting {case.name}")
                trainer.print_to_log_file(f"{case.name}, shape {case.data.shape}, rank {trainer.local_rank}")
                if segmentation is None or cases[case.name] != classes:
                    classes = cases[case.name]
                    segmentation = PreprocessedCases(self._model, MODES["accurate"], trainer.device, classes=classes)
                if written:
                    written.popleft().result()
                written.append(writing.submit(*self._predict(case, segmentation)))
                if trainer.is_ddp and number < last_meeting and (number + 1) % _CASES_BETWEEN_BARRIERS == 0:
                    distributed.barrier()
            for future in written:
                future.result()

    def _read(self, names: Sequence[str]) -> Iterator[_Case]:
        """Reads cases, one ahead of the network."""
        with ThreadPoolExecutor(1, "reading") as reading:
            ahead: deque[Future[_Case]] = deque()
            for name in names:
                ahead.append(reading.submit(self._read_case, name))
                if len(ahead) > 1:
                    yield ahead.popleft().result()
            for future in ahead:
                yield future.result()

    def _read_case(self, name: str) -> _Case:
        trainer = self._trainer
        dataset = trainer.dataset_class(
            trainer.preprocessed_dataset_folder,
            [name],
            folder_with_segs_from_previous_stage=trainer.folder_with_segs_from_previous_stage,
        )
        data, _, previous, properties = dataset.load_case(name)
        data = data[:]
        if trainer.is_cascaded:
            labels = trainer.label_manager.foreground_labels
            data = np.vstack((data, convert_labelmap_to_one_hot(previous[:], labels, output_dtype=data.dtype)))
        shapes = {stage: shape for stage in self._next_stages if (shape := self._shape_there(name, stage))}
        return _Case(name, torch.from_numpy(np.ascontiguousarray(data, np.float32)), properties, shapes)

    def _shape_there(self, name: str, stage: str) -> tuple[int, int, int] | None:
        """The shape of a case in another configuration; None where it was not preprocessed for that."""
        folder = self._data_of(stage)
        try:
            data = infer_dataset_class(str(folder))(str(folder), [name]).load_case(name)[0]
        except FileNotFoundError:
            self._trainer.print_to_log_file(
                f"Predicting next stage {stage} failed for case {name} because the preprocessed file is missing! "
                "Run the preprocessing for this configuration first!"
            )
            return None
        return (int(data.shape[1]), int(data.shape[2]), int(data.shape[3]))

    def _predict(self, case: _Case, segmentation: PreprocessedCases) -> Any:
        """Runs the network; what is left to do is to call the first of what is returned with the others."""
        prepared = segmentation.preprocessing.of_preprocessed(case.data, case.properties)
        # As nnU-Net: whether an axis is resampled by nearest neighbour is not asked of the next stage's spacing.
        others = [
            replace(prepared, image_shape=shape, image_spacing=prepared.spacing) for shape in case.next_stages.values()
        ]
        probabilities, visit = None, None
        if self._save_probabilities:
            has_regions = self._trainer.label_manager.has_regions
            probabilities = Probabilities(segmentation.segmenter, has_regions, self._folder)
            visit = partial(probabilities.fill, prepared=prepared)
        decisions = segmentation.segmenter.onto([prepared, *others], visit_logits=visit)
        return self._write, case, segmentation, prepared, decisions, probabilities

    def _write(
        self,
        case: _Case,
        segmentation: PreprocessedCases,
        prepared: Prepared,
        decisions: Sequence[Decisions],
        probabilities: Probabilities | None,
    ) -> None:
        with atomic_path(self._folder / (case.name + self._trainer.dataset_json["file_ending"])) as temporary:
            self._writer.write_seg(segmentation.label_map(decisions[0], prepared), str(temporary), case.properties)
        if probabilities is not None:
            files = (self._folder / f"{case.name}.npz", self._folder / f"{case.name}.pkl")
            names = self._model.class_names
            preprocessing, channels = segmentation.preprocessing, segmentation.channels
            probabilities.write(*files, preprocessing, prepared, names, case.properties, channels)
        for stage, decided in zip(case.next_stages, decisions[1:], strict=True):
            self._write_for(stage, case.name, segmentation.painted(decided))

    def _write_for(self, stage: str, name: str, labels: np.ndarray) -> None:
        """Writes what the second stage of a cascade reads; nnU-Net has no function for label maps."""
        target = str(self._next_stage_folder(stage) / name)
        kind = infer_dataset_class(str(self._data_of(stage)))
        if kind is not nnUNetDatasetBlosc2:
            kind.save_seg(labels, target)
            return
        patch_size = tuple(self._trainer.configuration_manager.patch_size)
        blocks, chunks = comp_blosc2_params((1, *labels.shape), patch_size, bytes_per_pixel=labels.itemsize)
        nnUNetDatasetBlosc2.save_seg(labels, target, chunks_seg=list(chunks[1:]), blocks_seg=list(blocks[1:]))

    def _next_stage_folder(self, stage: str) -> Path:
        return Path(self._trainer.output_folder_base) / "predicted_next_stage" / stage

    def _data_of(self, stage: str) -> Path:
        plans = self._trainer.plans_manager
        return (
            nnunet_folder("nnUNet_preprocessed") / plans.dataset_name / plans.get_configuration(stage).data_identifier
        )


def _network_of(trainer: Any) -> torch.nn.Module:
    """The network without wrappers; compiled where the training compiles."""
    network = sharing_weights(trainer.bare_network)
    wrapped = getattr(trainer.network, "module", trainer.network)  # of DistributedDataParallel
    if isinstance(wrapped, OptimizedModule):
        network.compile()
    return network
