"""Predicting many cases from files to files: what the command does."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from nnunetv2_ext.images.files import image_ending
from nnunetv2_ext.images.label_maps import is_complete, labels_json, write_label_map
from nnunetv2_ext.images.reading import Scan, read_scan
from nnunetv2_ext.inference.cases import Case, find_cases
from nnunetv2_ext.inference.deciding.outputs import OutputMap
from nnunetv2_ext.inference.deciding.rules import Decisions
from nnunetv2_ext.inference.pipeline import Outcome, run_pipeline
from nnunetv2_ext.inference.predictor import Predictor
from nnunetv2_ext.inference.preparing.nnunet import Prepared
from nnunetv2_ext.inference.reporting.preview import write_preview
from nnunetv2_ext.inference.reporting.probabilities import Probabilities
from nnunetv2_ext.inference.reporting.report import StageClock, write_report
from nnunetv2_ext.inference.reporting.statistics import gather_statistics, label_statistics, write_case_statistics
from nnunetv2_ext.inference.segmentation import Segmenter
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.files import read_json, require_writable, write_json
from nnunetv2_ext.utilities.folders import refuse_overlap
from nnunetv2_ext.utilities.locks import output_lock
from nnunetv2_ext.utilities.names import file_name, printable

_logger = logging.getLogger(__name__)

RECORD_FILE = "prediction.json"


@dataclass(frozen=True)
class PredictionOptions:
    """How to run over many cases.

    Attributes:
        output_type: One of ``writers.OUTPUT_TYPES``; the ending of the model's dataset by default.
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


@dataclass
class _Predicted:
    """What the last stage needs of a case."""

    scan: Scan
    prepared: Prepared
    decisions: Decisions
    probabilities: Probabilities | None


class PredictionRun:
    """One run of a predictor over the cases of an input.

    Args:
        predictor: The model.
        source: See `find_cases`.
        target: The output folder; or the output file, for one image and merged outputs.
        options: How to run.
        clock: Measures the stages; one of its own by default.

    Raises:
        UserError: The input holds no images, the output cannot be written, or it holds results that may neither be
            kept nor replaced.
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
        for flag, least, given in (
            ("-npp", 0, self.options.preparing_workers),
            ("-nps", 0, self.options.finishing_workers),
            ("-num_parts", 1, self.options.num_parts),
        ):
            if given < least:
                raise UserError(f"Expected {flag} to be at least {least}, but got {given}.")
        if not 0 <= self.options.part_id < self.options.num_parts:
            raise UserError(
                f"Expected -part_id between 0 and {self.options.num_parts - 1} (-num_parts minus 1), but got "
                f"{self.options.part_id}."
            )
        model = predictor.model
        self.all_cases = find_cases(source, model.image_channels, model.file_ending, self.options.pseudonyms)
        self.cases = self.all_cases[self.options.part_id :: self.options.num_parts]
        self.folder, self._file = _folder_and_file(Path(target), self.all_cases, predictor.plan.kind)
        self.ending = "." + (self.options.output_type or model.file_ending.lstrip("."))
        if self.options.save_probabilities and predictor.preprocessing.orientation is not None:
            raise UserError(
                "Expected a model that leaves the axes of images alone for --save_probabilities, but this one turns "
                f"them to {predictor.preprocessing.orientation}; predict it without."
            )
        self._refuse_inputs_as_outputs()
        if Path(source).is_dir():
            # The next prediction would take the results for images.
            refuse_overlap([source], self.folder, above=False)
        if any((self.folder / name).is_dir() for name in ("imagesTr", "labelsTr")) or any(self.folder.glob("fold_*")):
            raise UserError(f"Expected a folder for predictions, but {self.folder} holds a dataset or a model.")
        require_writable(self.folder)
        self.kept = self._kept_cases()
        self._clock = clock or StageClock()

    def run(self) -> Outcome[Case]:
        """Predicts every case that is not kept; a bad case is logged and does not stop the others.

        Returns:
            Which cases succeeded and which failed.
        """
        options = self.options
        whole, part = self._file is None, (options.part_id, options.num_parts)
        describe = partial(self._describe, self._descriptions())
        with output_lock(self._file or self.folder, inside=whole, part=part, agree=describe):
            # Another run may have ended since.
            self.kept = self._kept_cases()
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
                self._finish,
                preparing_workers=options.preparing_workers,
                finishing_workers=options.finishing_workers,
                progress=bar.update,
            )
        if options.statistics:
            gather_statistics(self.folder, [case.identifier for case in self.all_cases])
        if options.report:
            self._write_report(outcome)
        for failure in outcome.failures:
            _logger.error("%s failed while %s: %s", failure.case.identifier, failure.stage, failure.reason)
        return outcome

    def files_of(self, case: Case) -> list[tuple[OutputMap, Path]]:
        """Where the label maps of a case go."""
        plan = self.predictor.plan
        if self._file is not None:
            return [(plan.maps[0], self._file)]
        return [(output, self.folder / plan.path_of(case.identifier, output, self.ending)) for output in plan.maps]

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
        if folder is None or model.configuration.previous_stage_name is None:
            return None
        file = folder / (case.identifier + model.file_ending)
        if not file.is_file():
            raise UserError(f"Expected the previous stage's label map {file}, but it does not exist.")
        return read_scan(Case(case.identifier, (file,)), 1, admit_2d=model.is_2d)

    def _segment(self, case: Case, read: tuple[Scan, Prepared]) -> _Predicted:
        scan, prepared = read
        probabilities = self._probabilities() if self.options.save_probabilities else None
        visit = None if probabilities is None else partial(probabilities.fill, prepared=prepared)
        windows = self.predictor.segmenter.count_windows(prepared)
        with (
            self._clock.stage("network", case.identifier),
            tqdm(
                total=windows,
                desc=printable(case.identifier),
                unit="window",
                leave=False,
                disable=not self.options.progress_bar,
            ) as bar,
        ):
            decisions = self.predictor.segment(prepared, bar.update, visit)
        # The image at the network's spacing goes before the next case comes.
        prepared = dataclasses.replace(prepared, data=torch.empty(0, 0, 0, 0), content=None)
        return _Predicted(scan, prepared, decisions, probabilities)

    def _finish(self, case: Case, predicted: _Predicted) -> None:
        scan, files = predicted.scan, self.files_of(case)
        figures: dict[str, Any] = {}
        # The label maps come last: they are what tells a later run that the case is complete.
        if predicted.probabilities is not None:
            self._write_probabilities(case, predicted, predicted.probabilities)
        for output, file in files:
            with self._clock.stage("painting", case.identifier):
                labels = self.predictor.paint(predicted.decisions, output, predicted.prepared)
            if self.options.statistics:
                with self._clock.stage("statistics", case.identifier):
                    figures |= label_statistics(
                        labels, scan.channels[0], output.names, scan.grid.voxel_volume_ml, output.parts
                    )
            if self.options.preview and self.predictor.plan.kind != "per_class":
                with self._clock.stage("preview", case.identifier):
                    where = self.folder / "previews" / output.name / f"{case.identifier}.png"
                    write_preview(labels, scan.channels[0], output.names, scan.grid, where, title=case.identifier)
            with self._clock.stage("writing", case.identifier):
                write_label_map(labels, output.names, scan.grid, file)
        if self.options.statistics:
            write_case_statistics(figures, case.identifier, self.folder)

    def _probabilities(self) -> Probabilities:
        predictor = self.predictor
        channels, _ = self._kept_channels()
        assert isinstance(predictor.segmenter, Segmenter), "bundles are refused at the start"
        has_regions = predictor.model.labels.has_regions
        return Probabilities(predictor.segmenter, has_regions=has_regions, channels=channels, folder=self.folder)

    def _kept_channels(self) -> tuple[list[int], list[str]]:
        """Which of the computed channels have their probabilities written, and their names: all, or those chosen."""
        names = self.predictor.model.class_names
        plan = self.predictor.plan
        if plan.channels is not None:
            return list(range(len(plan.channels))), [names[channel] for channel in plan.channels]
        if self.predictor.classes is None:
            return list(range(len(names))), list(names)
        chosen = [channel for channel, name in enumerate(names) if name in self.predictor.classes]
        return chosen, [names[channel] for channel in chosen]

    def _write_probabilities(self, case: Case, predicted: _Predicted, probabilities: Probabilities) -> None:
        preprocessing = self.predictor.preprocessing
        properties = preprocessing.stock_properties(predicted.scan, predicted.prepared)
        _, names = self._kept_channels()
        with self._clock.stage("probabilities", case.identifier):
            target = self._probability_file(case)
            probabilities.write(target, preprocessing, predicted.prepared, names, properties)

    def _probability_file(self, case: Case) -> Path:
        """Beside the merged label map, without ending."""
        if self._file is None:
            return self.folder / case.identifier
        return self.folder / self._file.name.removesuffix(image_ending(self._file) or self.ending)

    def _refuse_inputs_as_outputs(self) -> None:
        inputs = {file.resolve() for case in self.cases for file in case.files}
        for case in self.cases:
            for _, file in self.files_of(case):
                if file.resolve() in inputs:
                    raise UserError(
                        f"The result of {case.identifier} would replace the image {file}; choose another -o."
                    )

    def _kept_cases(self) -> list[Case]:
        existing = {case: [file for _, file in self.files_of(case) if file.exists()] for case in self.cases}
        files = [file for found in existing.values() for file in found]
        if not files or self.options.overwrite:
            return []
        if not self.options.continue_prediction:
            raise UserError(
                f"{len(files)} of the results exist already in {self.folder} (such as {files[0].name}); pass "
                "--continue_prediction to keep those that are complete, or --overwrite to replace them."
            )
        return [case for case in self.cases if existing[case] and self._is_done(case)]

    def _is_done(self, case: Case) -> bool:
        extras = [self.folder / "statistics" / f"{case.identifier}.json"] if self.options.statistics else []
        if self.options.save_probabilities:
            extras.append(self._probability_file(case).with_name(self._probability_file(case).name + ".npz"))
        return all(file.is_file() for file in extras) and all(is_complete(file) for _, file in self.files_of(case))

    def _describe(self, descriptions: Mapping[Path, Any], alone: bool) -> None:
        """Writes what says how the results came about; without --overwrite, only what is there already may be there."""
        for file, content in descriptions.items():
            if file.exists() and not (self.options.overwrite and alone) and read_json(file) != content:
                raise UserError(
                    f"Expected {self.folder} to hold results of the same model and options, but {file.name} there says "
                    "otherwise; choose another -o or, when no other run writes there, pass --overwrite."
                )
        for file, content in descriptions.items():
            write_json(content, file)

    def _descriptions(self) -> dict[Path, Any]:
        """File -> what it says about the results: the model, its classes, and what decides about voxels."""
        plan, model = self.predictor.plan, self.predictor.model
        if self._file is not None:
            stem = self._file.name.removesuffix(image_ending(self._file) or self.ending)
            return {self.folder / f"{stem}_labels.json": labels_json(plan.maps[0].names)}
        contents: dict[str, Any] = {}
        if plan.kind == "merged":
            # What nnU-Net's own tools (ensembling, postprocessing, evaluation) expect beside predictions.
            contents = {"dataset.json": model.dataset_json, "plans.json": model.plans.plans}
            contents["labels.json"] = labels_json(plan.maps[0].names)
        if plan.kind == "per_source":
            contents = {f"{file_name(output.name)}/labels.json": labels_json(output.names) for output in plan.maps}
        if plan.kind == "per_class":
            files = {output.name: str(plan.path_of("<case>", output, self.ending)) for output in plan.maps}
            labels = {"background": 0, "<the class of the file>": 1}
            contents["labels.json"] = {"labels": labels, "files": files}
        contents[RECORD_FILE] = {"checkpoints": model.sha256(), "format": self.ending, **self._settings()}
        # As they are read again: JSON knows neither tuples nor integers as names.
        return {self.folder / name: json.loads(json.dumps(content)) for name, content in contents.items()}

    def _settings(self) -> dict[str, Any]:
        predictor = self.predictor
        return {
            "mode": dataclasses.asdict(predictor.mode) | {"step_size": predictor.step_size, "sums": predictor.sums},
            "outputs": predictor.plan.kind,
            "classes": sorted({name for output in predictor.plan.maps for name in output.names.values()}),
        }

    def _write_report(self, outcome: Outcome[Case]) -> None:
        predictor, model, options = self.predictor, self.predictor.model, self.options
        cases = {
            case.identifier: {
                # Folders of series, and files that have numbers instead, are often called by the patient.
                "inputs": len(case.files) if case.dicom or options.pseudonyms else list(map(str, case.files)),
                "outputs": [str(file) for _, file in self.files_of(case)],
                "seconds": self._clock.seconds(case.identifier),
            }
            for case in outcome.done
        }
        part = f"_part{options.part_id}of{options.num_parts}" if options.num_parts > 1 else ""
        content = {
            "model": {"folder": str(model.folder), "sha256": model.sha256()},
            "device": _device_name(predictor.device),
            "backend": predictor.backend,
            **self._settings(),
            "cases": cases,
            "kept": [case.identifier for case in self.kept],
            "failures": {
                failure.case.identifier: {"stage": failure.stage, "reason": failure.reason}
                for failure in outcome.failures
            },
        }
        write_report(self.folder / f"report{part}.json", content, self._clock)


def _folder_and_file(target: Path, cases: Sequence[Case], kind: str) -> tuple[Path, Path | None]:
    """The output folder and, where ``target`` names an image, the one output file."""
    is_file = image_ending(target) is not None or target.name.endswith(".seg.nrrd")
    if not is_file or target.is_dir():
        return target, None
    if len(cases) != 1 or kind != "merged":
        raise UserError(
            f"Expected a folder as the output of {len(cases)} cases with {kind} label maps, but got the file {target}."
        )
    return target.parent, target


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return str(device)
