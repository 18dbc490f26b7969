"""Predicting many cases from files to files: what the command does."""

from __future__ import annotations

import logging
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm

from nnunetv2_ext.images.label_maps import DICOM_TYPES
from nnunetv2_ext.images.reading import Case
from nnunetv2_ext.inference.cases import find_cases
from nnunetv2_ext.inference.model.folder import read_model
from nnunetv2_ext.inference.parts import find_devices
from nnunetv2_ext.inference.pipeline import Outcome
from nnunetv2_ext.inference.predictor import Predictor
from nnunetv2_ext.inference.reporting.report import StageClock, write_report
from nnunetv2_ext.inference.reporting.statistics import gather_statistics
from nnunetv2_ext.inference.results import Results
from nnunetv2_ext.inference.segmentation import Segmenter
from nnunetv2_ext.inference.sharing import share_cases
from nnunetv2_ext.inference.stages import CaseStages
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.locks import output_lock

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PredictionOptions:
    """How to run over many cases.

    Attributes:
        output_type: One of `OUTPUT_TYPES`, some of `DICOM_TYPES`, or several of both; the ending of the model's dataset
            by default.
        repair: Make new UIDs for DICOM objects where the series has empty ones.
        statistics: Write volume and intensity of every class.
        preview: Write a picture of every case.
        report: Write what the run did.
        save_probabilities: Write probabilities beside the label maps, as nnU-Net's ensembling reads them.
        continue_prediction: Keep complete files of an earlier run.
        overwrite: Replace files of an earlier run.
        pseudonyms: Table of the numbers that cases are called by instead of their names; see `pseudonyms`.
        previous_stage: Folder with the label maps that a cascade's second stage reads; by default they are predicted
            with the model of the first stage, which lies beside that of the second.
        preparing_workers: Threads that read and resample images; 0 for none beside the main thread.
        finishing_workers: Threads that write results; 0 for none beside the main thread.
        num_gpus: How many processes share the cases, each on a GPU of its own; or on the CPU, where that is the device.
            With more than one, each reads and writes by one thread at most.
        num_parts: How many runs share the cases.
        part_id: Which of these runs this is, from 0.
        progress_bar: Show one.
    """

    output_type: str | Sequence[str] | None = None
    repair: bool = False
    statistics: bool = False
    preview: bool = False
    report: bool = False
    save_probabilities: bool = False
    continue_prediction: bool = False
    overwrite: bool = False
    pseudonyms: Path | None = None
    previous_stage: Path | None = None
    preparing_workers: int = 3
    finishing_workers: int = 3
    num_gpus: int = 1
    num_parts: int = 1
    part_id: int = 0
    progress_bar: bool = True

    @property
    def output_types(self) -> tuple[str, ...]:
        """``output_type``, each once."""
        given = (self.output_type,) if isinstance(self.output_type, str) else self.output_type or ()
        return tuple(dict.fromkeys(given))


class PredictionRun:
    """One run of a predictor over the cases of an input.

    Args:
        predictor: The model.
        source: See `find_cases`.
        target: The output folder; or the output file, for one image and merged outputs.
        options: How to run.
        clock: Measures the stages; one of its own by default.

    Raises:
        UserError: The input holds no images, the options do not suit the model or each other, the output cannot be
            written, or it holds results that may neither be kept nor replaced.
    """

    def __init__(
        self,
        predictor: Predictor,
        source: Path | str,
        target: Path | str,
        options: PredictionOptions | None = None,
        clock: StageClock | None = None,
    ) -> None:
        self.predictor = predictor
        self.options = options or PredictionOptions()
        self._check_numbers()
        self._check_choices()
        self._first_stage = self._predictor_of_first_stage()
        model = predictor.model
        self.all_cases = find_cases(source, model.image_channels, model.file_ending, self.options.pseudonyms)
        self.cases = self.all_cases[self.options.part_id :: self.options.num_parts]
        self.results = Results(predictor, Path(target), self.all_cases, self.options)
        self.results.prepare_folder(Path(source), self.cases)
        self.kept = self.results.kept(self.cases)
        self._clock = clock or StageClock()

    def run(self) -> Outcome[Case]:
        """Predicts every case that is not kept; a bad case is logged and does not stop the others.

        Returns:
            Which cases succeeded and which failed.
        """
        options, results = self.options, self.results
        whole, part = results.file is None, (options.part_id, options.num_parts)
        describe = partial(results.describe, results.descriptions(self._first_stage))
        with output_lock(results.target, inside=whole, part=part, agree=describe):
            # Another run may have ended since.
            self.kept = results.kept(self.cases)
            return self._run()

    def _run(self) -> Outcome[Case]:
        options = self.options
        kept = frozenset(self.kept)
        waiting = [case for case in self.cases if case not in kept]
        if self.kept:
            _logger.info("%d of %d cases are complete and kept.", len(self.kept), len(self.cases))
        with self._clock:
            outcome = self._predict(waiting)
        for failure in outcome.failures:
            if failure.stage != "finishing":  # where the disk took nothing, what it holds stays
                self.results.forget(failure.case, maps=True)
        if options.statistics or (options.overwrite and (self.results.folder / "statistics.json").exists()):
            gather_statistics(self.results.folder, [case.identifier for case in self.all_cases])
        if options.report:
            self._write_report(outcome)
        for failure in outcome.failures:
            _logger.error("%s failed while %s: %s", failure.case.identifier, failure.stage, failure.reason)
        return outcome

    def _predict(self, cases: Sequence[Case]) -> Outcome[Case]:
        """Predicts cases; in a cascade, the first stage of all of them before the second."""
        first, options = self._first_stage, self.options
        if first is None or not cases:
            return _predict_cases(self.predictor, self.results, options, cases, self._clock)
        _logger.info("Predicting the first stage of the cascade with the model in %s.", first.model.folder)
        # By this name, the next run finds what is left of a killed one.
        prefix = f".{'first_stage' if self.results.file is None else self.results.file.name}."
        with tempfile.TemporaryDirectory(prefix=prefix, suffix=".tmp", dir=self.results.folder) as name:
            folder = Path(name)
            only_maps = PredictionOptions(
                preparing_workers=options.preparing_workers,
                finishing_workers=options.finishing_workers,
                num_gpus=options.num_gpus,
                progress_bar=options.progress_bar,
            )
            before = _predict_cases(first, Results(first, folder, cases, only_maps), only_maps, cases, self._clock)
            ready = [case for case in cases if case in before.done]
            options = replace(options, previous_stage=folder)
            outcome = _predict_cases(self.predictor, self.results, options, ready, self._clock)
        return Outcome(outcome.done, before.failures + outcome.failures)

    def _check_numbers(self) -> None:
        options = self.options
        for flag, least, given in (
            ("-npp", 0, options.preparing_workers),
            ("-nps", 0, options.finishing_workers),
            ("-num_gpus", 1, options.num_gpus),
            ("-num_parts", 1, options.num_parts),
        ):
            if given < least:
                raise UserError(f"Expected {flag} to be at least {least}, but got {given}.")
        if not 0 <= options.part_id < options.num_parts:
            raise UserError(
                f"Expected -part_id between 0 and {options.num_parts - 1} (-num_parts minus 1), but got "
                f"{options.part_id}."
            )
        if options.num_gpus > 1:
            find_devices(self.predictor.settings.device, options.num_gpus)

    def _check_choices(self) -> None:
        options, predictor = self.options, self.predictor
        if options.save_probabilities and not isinstance(predictor.segmenter, Segmenter):
            raise UserError(
                "Expected a model of one head that nnU-Net prepares images for with --save_probabilities, but this one "
                "is a MONAI bundle or has a head per source; predict it without."
            )
        if (
            options.save_probabilities
            and predictor.settings.classes is not None
            and not predictor.model.labels.has_regions
        ):
            raise UserError(
                "Expected --save_probabilities without --classes for a softmax, whose probabilities mean something "
                "only together; leave one of them out."
            )
        if options.preview and predictor.plan.kind == "per_class":
            raise UserError(
                "Expected --preview with merged or per_source label maps, but got per_class; leave --preview out."
            )
        dicom = set(options.output_types) & DICOM_TYPES.keys()
        if options.repair and not dicom:
            raise UserError(
                f"Expected --repair with --output_type {', '.join(DICOM_TYPES)}, whose UIDs it is for; leave it out."
            )
        if options.pseudonyms is not None and dicom:
            raise UserError(
                f"Expected no --output_type {', '.join(sorted(dicom))} with --pseudonyms, because DICOM objects name "
                "the patient that they belong to; leave one of them out."
            )
        if options.previous_stage is not None and predictor.model.configuration.previous_stage_name is None:
            raise UserError("Expected no -prev_stage_predictions for a model that is no cascade's second stage.")

    def _predictor_of_first_stage(self) -> Predictor | None:
        """Where the first stage of a cascade is not predicted yet: what predicts it, as the second is predicted."""
        predictor, model = self.predictor, self.predictor.model
        stage = model.configuration.previous_stage_name
        if stage is None or self.options.previous_stage is not None:
            return None
        folder = model.folder.resolve()
        trainer_and_plans, separator, _ = folder.name.rpartition("__")
        beside = folder.with_name(trainer_and_plans + separator + stage)
        if not beside.is_dir():
            raise UserError(
                f"Expected the label maps of the previous stage ({stage}), or its model in {beside}; predict that "
                "stage first and pass its folder as -prev_stage_predictions."
            )
        return Predictor(
            read_model(beside, model.folds, model.checkpoints[0].name),
            replace(predictor.settings, outputs="merged", classes=None, level=None, nodes=None, keep_largest=()),
        )

    def _write_report(self, outcome: Outcome[Case]) -> None:
        predictor, model, options = self.predictor, self.predictor.model, self.options
        cases = {
            case.identifier: {
                # Folders of series, and files that have numbers instead, are often called by the patient.
                "inputs": len(case.files) if case.dicom or options.pseudonyms else list(map(str, case.files)),
                "outputs": list(map(str, self.results.map_files(case))),
                "seconds": self._clock.seconds(case.identifier),
            }
            for case in outcome.done
        }
        devices = [str(predictor.device)]
        if options.num_gpus > 1:
            devices = find_devices(predictor.settings.device, options.num_gpus)
        if predictor.device.type == "cuda":
            devices = [f"{device} ({torch.cuda.get_device_name(device)})" for device in devices]
        content = {
            "model": {"folder": str(model.folder), "sha256": model.sha256},
            "device": ", ".join(devices),
            "backend": predictor.backend,
            **self.results.settings(),
            "cases": cases,
            "kept": [case.identifier for case in self.kept],
            "failures": {
                failure.case.identifier: {"stage": failure.stage, "reason": failure.reason}
                for failure in outcome.failures
            },
        }
        part = f"_part{options.part_id}of{options.num_parts}" if options.num_parts > 1 else ""
        write_report(self.results.folder / f"report{part}.json", content, self._clock)


def _predict_cases(
    predictor: Predictor, results: Results, options: PredictionOptions, cases: Sequence[Case], clock: StageClock
) -> Outcome[Case]:
    if options.num_gpus > 1 and cases:
        outcome, orientations = share_cases(predictor, results, options, cases, clock)
    else:
        stages = CaseStages(predictor, results, options, clock)
        with tqdm(total=len(cases), desc="Predicting", unit="case", disable=not options.progress_bar) as bar:
            outcome, orientations = stages.run(cases, bar.update), stages.orientations
    _tell_orientations(predictor, orientations)
    return outcome


def _tell_orientations(predictor: Predictor, orientations: Iterable[str | None]) -> None:
    """Says so where nothing was turned, and warns where scans lay differently then."""
    found = Counter(orientation for orientation in orientations if orientation is not None)
    if predictor.preprocessing.orientation is not None or not found:
        return
    listed = ", ".join(f"{number} {orientation}" for orientation, number in sorted(found.items()))
    if len(found) > 1:
        _logger.warning(
            "The scans of this run lie differently (%s), but the network saw each in the order of its file; label "
            "maps of those that do not lie as the images of the training mean nothing. Note how these lay as "
            "image_orientation in the dataset.json of the model, and scans are turned.",
            listed,
        )
    elif predictor.settings.orientation == "training":
        _logger.info("How the images of the training lay is not recorded: scans (%s) were not turned.", listed)
