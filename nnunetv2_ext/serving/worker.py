"""What runs in the process that predicts: models are read once and stay."""

from __future__ import annotations

import os
import shutil
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from nnunetv2_ext.inference.deciding.rules import Decisions
from nnunetv2_ext.inference.model.folder import read_model
from nnunetv2_ext.inference.parts import PredictorSettings
from nnunetv2_ext.inference.prediction_run import PredictionOptions
from nnunetv2_ext.inference.predictor import Predictor
from nnunetv2_ext.inference.preparing.protocol import Prepared
from nnunetv2_ext.inference.reporting.report import StageClock
from nnunetv2_ext.inference.results import Results
from nnunetv2_ext.inference.segmentation import LogitsVisitor, Progress
from nnunetv2_ext.inference.stages import CaseStages
from nnunetv2_ext.labels.dataset_json import image_channels
from nnunetv2_ext.serving.jobs import Job, JobStore
from nnunetv2_ext.serving.uploads import case_in
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.folders import folder_under_construction

#: How a label map is called in a job's folder, before its format; several of them are in a ZIP archive.
LABEL_MAP, SEVERAL = "label_map", ".zip"
STATISTICS, PREVIEW = "statistics.json", "preview.png"

_SECONDS_BETWEEN_NOTES = 0.5


@dataclass(frozen=True)
class ModelChoice:
    """A model of the server.

    Attributes:
        name: What requests call it.
        folder: Model folder.
        folds: Which folds to average; all that are there by default.
        checkpoint_name: Which of a fold's checkpoints.
        settings: How to predict.
    """

    name: str
    folder: Path
    folds: tuple[str, ...] | None
    checkpoint_name: str
    settings: PredictorSettings


@dataclass(frozen=True)
class ModelDescription:
    """What a model reads and writes.

    Attributes:
        name: What requests call it.
        channels: What its image channels are, such as ``("CT",)``.
        admits_2d: Whether images of two dimensions make sense to it.
        maps: Classes of each of its label maps by their integers; the only one of most models has no name.
        checkpoints: SHA-256 of its checkpoints.
    """

    name: str
    channels: tuple[str, ...]
    admits_2d: bool
    maps: dict[str, dict[int, str]]
    checkpoints: dict[str, str]


@dataclass(frozen=True)
class Loads:
    """How many models a process has read so far."""

    process: int
    models: int


class _WatchedPredictor(Predictor):
    """Tells how far the network is."""

    watch: Callable[[float], None] = staticmethod(lambda share: None)

    def segment(
        self, prepared: Prepared, progress: Progress | None = None, visit_logits: LogitsVisitor | None = None
    ) -> Decisions:
        total, done, noted = self.segmenter.num_windows(prepared), 0, time.monotonic()

        def count(windows: int) -> None:
            nonlocal done, noted
            done += windows
            if time.monotonic() - noted > _SECONDS_BETWEEN_NOTES:
                noted = time.monotonic()
                self.watch(done / total)
            if progress is not None:
                progress(windows)

        return super().segment(prepared, count, visit_logits)


def describe(choice: ModelChoice) -> ModelDescription:
    """Reads a model, unless this process has it already.

    Raises:
        UserError: It is damaged or does not suit the settings, or needs another model's label maps.
    """
    predictor = _predictor(choice)
    model = predictor.model
    return ModelDescription(
        choice.name,
        tuple(image_channels(model.dataset_json)),
        model.is_2d,
        {output.name: dict(output.names) for output in predictor.plan.maps},
        model.sha256,
    )


def predict(choice: ModelChoice, job: Job, folder: Path) -> Loads:
    """Predicts the scan in a job's folder; all results appear there at once.

    Args:
        choice: With which model.
        job: What to write.
        folder: Of the server.

    Raises:
        UserError: The scan cannot be predicted.
    """
    store = _store(folder)
    predictor = _predictor(choice)
    predictor.watch = lambda share: store.advance(job.id, share)
    case = case_in(store.folder_of(job.id) / "input", predictor.model.image_channels)
    options = PredictionOptions(statistics=True, preview=job.preview, progress_bar=False)
    predicted: Any = None
    with folder_under_construction(result_folder(store.folder_of(job.id), job)) as result:
        for kind in job.output_types:
            options = replace(options, output_type=kind)
            own = result / f"as_{job.output_types.index(kind)}"
            own.mkdir()
            results = Results(predictor, own, [case], options)
            stages = CaseStages(predictor, results, options, StageClock())
            if predicted is None:
                predicted = stages.segment(case, stages.prepare(case))
            stages.write(case, predicted)
            _gather(sorted(own.rglob(f"*.{kind}")), own, result / f"{LABEL_MAP}.{kind}")
            if options.statistics:
                results.statistics_of(case).rename(result / STATISTICS)
            if options.preview:
                results.preview_of(case, predictor.plan.maps[0]).rename(result / PREVIEW)
            shutil.rmtree(own)
            options = replace(options, statistics=False, preview=False)
    return Loads(os.getpid(), _predictor.cache_info().misses)


def result_folder(folder: Path, job: Job) -> Path:
    """Where the results of a job's latest attempt are; an earlier worker may outlive a server that was killed.

    Args:
        folder: The job's.
        job: The job.
    """
    return folder / f"result_{job.attempts}"


def _gather(files: Sequence[Path], folder: Path, target: Path) -> None:
    """One label map as a file, several in an archive."""
    if len(files) == 1:
        files[0].rename(target)
        return
    with zipfile.ZipFile(f"{target}{SEVERAL}", "w") as archive:
        for file in files:
            archive.write(file, file.relative_to(folder))


@cache
def _predictor(choice: ModelChoice) -> _WatchedPredictor:
    model = read_model(choice.folder, choice.folds, choice.checkpoint_name)
    if (stage := model.configuration.previous_stage_name) is not None:
        raise UserError(
            f"Expected a model that needs no other, but {choice.folder} is the second stage of a cascade; serve the "
            f"first ({stage}), or another."
        )
    return _WatchedPredictor(model, choice.settings)


@cache
def _store(folder: Path) -> JobStore:
    return JobStore(folder)
