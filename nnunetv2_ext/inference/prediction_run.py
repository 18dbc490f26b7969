"""Predicting many cases from files to files: what the command does."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm

from nnunetv2_ext.images.reading import Case, Scan, read_scan
from nnunetv2_ext.inference.cases import find_cases
from nnunetv2_ext.inference.pipeline import Outcome, run_pipeline
from nnunetv2_ext.inference.predictor import Predictor
from nnunetv2_ext.inference.preparing.protocol import Prepared
from nnunetv2_ext.inference.reporting.probabilities import Probabilities
from nnunetv2_ext.inference.reporting.report import StageClock, write_report
from nnunetv2_ext.inference.reporting.statistics import gather_statistics
from nnunetv2_ext.inference.results import Results
from nnunetv2_ext.inference.segmentation import Segmenter
from nnunetv2_ext.inference.writing import CaseWriter, Predicted
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.locks import output_lock
from nnunetv2_ext.utilities.names import printable

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PredictionOptions:
    """How to run over many cases.

    Attributes:
        output_type: One of `OUTPUT_TYPES`; the ending of the model's dataset by default.
        statistics: Write volume and intensity of every class.
        preview: Write a picture of every case.
        report: Write what the run did.
        save_probabilities: Write probabilities beside the label maps, as nnU-Net's ensembling reads them.
        continue_prediction: Keep complete files of an earlier run.
        overwrite: Replace files of an earlier run.
        pseudonyms: Table of the numbers that cases are called by instead of their names; see `pseudonyms`.
        previous_stage: Folder with the label maps that a cascade's second stage reads.
        preparing_workers: Threads that read and resample images; 0 for none beside the main thread.
        finishing_workers: Threads that write results; 0 for none beside the main thread.
        num_parts: How many runs share the cases.
        part_id: Which of these runs this is, from 0.
        progress_bar: Show one.
    """

    output_type: str | None = None
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
    num_parts: int = 1
    part_id: int = 0
    progress_bar: bool = True


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
        model = predictor.model
        self.all_cases = find_cases(source, model.image_channels, model.file_ending, self.options.pseudonyms)
        self.cases = self.all_cases[self.options.part_id :: self.options.num_parts]
        self.results = Results(predictor, Path(target), self.all_cases, self.options)
        self.results.prepare_folder(Path(source), self.cases)
        self.kept = self.results.kept(self.cases)
        self._clock = clock or StageClock()
        self._writer = CaseWriter(predictor, self.results, self.options, self._clock)

    def run(self) -> Outcome[Case]:
        """Predicts every case that is not kept; a bad case is logged and does not stop the others.

        Returns:
            Which cases succeeded and which failed.
        """
        options, results = self.options, self.results
        whole, part = results.file is None, (options.part_id, options.num_parts)
        describe = partial(results.describe, results.descriptions())
        with output_lock(results.file or results.folder, inside=whole, part=part, agree=describe):
            # Another run may have ended since.
            self.kept = results.kept(self.cases)
            return self._run()

    def _run(self) -> Outcome[Case]:
        options = self.options
        waiting = [case for case in self.cases if case not in self.kept]
        if self.kept:
            _logger.info("%d of %d cases are complete and kept.", len(self.kept), len(self.cases))
        bar = tqdm(total=len(waiting), desc="Predicting", unit="case", disable=not options.progress_bar)
        with self._clock, bar:
            outcome = run_pipeline(
                waiting,
                self._prepare,
                self._segment,
                self._writer.write,
                preparing_workers=options.preparing_workers,
                finishing_workers=options.finishing_workers,
                progress=bar.update,
            )
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

    def _check_numbers(self) -> None:
        options = self.options
        for flag, least, given in (
            ("-npp", 0, options.preparing_workers),
            ("-nps", 0, options.finishing_workers),
            ("-num_parts", 1, options.num_parts),
        ):
            if given < least:
                raise UserError(f"Expected {flag} to be at least {least}, but got {given}.")
        if not 0 <= options.part_id < options.num_parts:
            raise UserError(
                f"Expected -part_id between 0 and {options.num_parts - 1} (-num_parts minus 1), but got "
                f"{options.part_id}."
            )

    def _check_choices(self) -> None:
        options, predictor = self.options, self.predictor
        if options.save_probabilities and not isinstance(predictor.segmenter, Segmenter):
            raise UserError(
                "Expected a model that nnU-Net prepares images for with --save_probabilities, but this one is a MONAI "
                "bundle; predict it without."
            )
        if options.save_probabilities and predictor.classes is not None and not predictor.model.labels.has_regions:
            raise UserError(
                "Expected --save_probabilities without --classes for a softmax, whose probabilities mean something "
                "only together; leave one of them out."
            )
        if options.preview and predictor.plan.kind == "per_class":
            raise UserError(
                "Expected --preview with merged or per_source label maps, but got per_class; leave --preview out."
            )
        needed = predictor.model.configuration.previous_stage_name
        if needed is not None and options.previous_stage is None:
            raise UserError(
                f"Expected the label maps of the previous stage ({needed}); predict that stage first and pass its "
                "folder as -prev_stage_predictions."
            )
        if needed is None and options.previous_stage is not None:
            raise UserError("Expected no -prev_stage_predictions for a model that is no cascade's second stage.")

    def _prepare(self, case: Case) -> tuple[Scan, Prepared]:
        model = self.predictor.model
        with self._clock.stage("reading", case.identifier):
            scan = read_scan(case, model.image_channels, admit_2d=model.is_2d)
            previous = self._previous_stage(case)
        with self._clock.stage("preprocessing", case.identifier):
            prepared = self.predictor.prepare(scan, previous)
        if not (self.options.statistics or self.options.preview):
            # From here on only the grid of the image is needed.
            scan = dataclasses.replace(scan, channels=scan.channels[:0].copy())
        return scan, prepared

    def _previous_stage(self, case: Case) -> Scan | None:
        folder, model = self.options.previous_stage, self.predictor.model
        if folder is None:
            return None
        file = folder / (case.identifier + model.file_ending)
        if not file.is_file():
            raise UserError(f"Expected the previous stage's label map {file}, but it does not exist.")
        return read_scan(Case(case.identifier, (file,)), 1, admit_2d=model.is_2d)

    def _segment(self, case: Case, read: tuple[Scan, Prepared]) -> Predicted:
        (scan, prepared), segmenter = read, self.predictor.segmenter
        probabilities = None
        if self.options.save_probabilities:
            assert isinstance(segmenter, Segmenter), "bundles are refused at the start"
            probabilities = Probabilities(segmenter, self.predictor.model.labels.has_regions, self.results.folder)
        visit = None if probabilities is None else partial(probabilities.fill, prepared=prepared)
        with (
            self._clock.stage("network", case.identifier),
            tqdm(
                total=segmenter.windows.plan(prepared.shape).num_windows,
                desc=printable(case.identifier),
                unit="window",
                leave=False,
                disable=not self.options.progress_bar,
            ) as bar,
        ):
            decisions = self.predictor.segment(prepared, bar.update, visit)
        # The image at the network's spacing goes before the next case comes.
        prepared = dataclasses.replace(prepared, data=torch.empty(0, 0, 0, 0), content=None)
        return Predicted(scan, prepared, decisions, probabilities)

    def _write_report(self, outcome: Outcome[Case]) -> None:
        predictor, model, options = self.predictor, self.predictor.model, self.options
        cases = {
            case.identifier: {
                # Folders of series, and files that have numbers instead, are often called by the patient.
                "inputs": len(case.files) if case.dicom or options.pseudonyms else list(map(str, case.files)),
                "outputs": [str(file) for _, file in self.results.maps_of(case)],
                "seconds": self._clock.seconds(case.identifier),
            }
            for case in outcome.done
        }
        device = str(predictor.device)
        if predictor.device.type == "cuda":
            device += f" ({torch.cuda.get_device_name(predictor.device)})"
        content = {
            "model": {"folder": str(model.folder), "sha256": model.sha256()},
            "device": device,
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
