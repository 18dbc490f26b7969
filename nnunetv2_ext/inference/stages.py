"""What a run does with a case: it is read and prepared, segmented, and written.

A new kind of output joins here: a file in `Results`, and the lines that write it in `CaseStages.write`. Formats of
label maps, DICOM objects among them, are those of `images.label_maps`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from tqdm import tqdm

from nnunetv2_ext.images.dicom_source import Algorithm, SourceSeries, read_source
from nnunetv2_ext.images.geometry import Grid
from nnunetv2_ext.images.label_maps import DICOM_TYPES, write_dicom, write_label_map
from nnunetv2_ext.images.preview import write_preview
from nnunetv2_ext.images.reading import Case, Scan, read_scan
from nnunetv2_ext.images.segments import segments_of
from nnunetv2_ext.inference.deciding.rules import Decisions
from nnunetv2_ext.inference.pipeline import Outcome, run_pipeline
from nnunetv2_ext.inference.preparing.nnunet import NnunetPreprocessing
from nnunetv2_ext.inference.preparing.protocol import Prepared
from nnunetv2_ext.inference.reporting.probabilities import Probabilities
from nnunetv2_ext.inference.reporting.report import StageClock
from nnunetv2_ext.inference.reporting.statistics import label_statistics
from nnunetv2_ext.inference.results import Results
from nnunetv2_ext.inference.segmentation import Segmenter
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.files import write_json
from nnunetv2_ext.utilities.names import printable

if TYPE_CHECKING:
    from nnunetv2_ext.inference.prediction_run import PredictionOptions
    from nnunetv2_ext.inference.predictor import Predictor


@dataclass
class Predicted:
    """What is known of a case once the network has seen it."""

    scan: Scan
    prepared: Prepared
    decisions: Decisions
    probabilities: Probabilities | None
    source: SourceSeries | UserError | None


class Read(NamedTuple):
    """A case, what the network sees of it, and the series for DICOM objects, or why there can be none."""

    scan: Scan
    prepared: Prepared
    source: SourceSeries | UserError | None


class CaseStages:
    """The three stages of a case; of several ones side by side, but for the network.

    Args:
        predictor: The model.
        results: Where files go.
        options: What to write, and by how many threads.
        clock: Measures the stages.

    Attributes:
        orientations: How the scans lie that were read; see `Grid.orientation`.
    """

    def __init__(self, predictor: Predictor, results: Results, options: PredictionOptions, clock: StageClock) -> None:
        self._predictor, self._results, self._options, self._clock = predictor, results, options, clock
        self.orientations: list[str | None] = []

    def run(self, cases: Sequence[Case], progress: Callable[[], object] | None = None) -> Outcome[Case]:
        """Takes every case through its stages; see `run_pipeline`."""
        return run_pipeline(
            cases,
            self.prepare,
            self.segment,
            self.write,
            preparing_workers=self._options.preparing_workers,
            finishing_workers=self._options.finishing_workers,
            progress=progress,
        )

    def prepare(self, case: Case) -> Read:
        """Reads a case; what the network sees of it."""
        model = self._predictor.model
        with self._clock.stage("reading", case.identifier):
            scan = read_scan(case, model.image_channels, admit_2d=model.is_2d)
            previous = self._previous_stage(case)
            source = self._source(case, scan.grid)
        self.orientations.append(scan.grid.orientation)
        with self._clock.stage("preprocessing", case.identifier):
            prepared = self._predictor.prepare(scan, previous)
        if not (self._options.statistics or self._options.preview):
            # From here on only the grid of the image is needed.
            scan = dataclasses.replace(scan, channels=scan.channels[:0].copy())
        return Read(scan, prepared, source)

    def segment(self, case: Case, read: Read) -> Predicted:
        """Runs the network."""
        (scan, prepared, source), segmenter = read, self._predictor.segmenter
        probabilities = None
        if self._options.save_probabilities:
            assert isinstance(segmenter, Segmenter), "others are refused at the start"
            probabilities = Probabilities(segmenter, self._predictor.model.labels.has_regions, self._results.folder)
        visit = None if probabilities is None else partial(probabilities.fill, prepared=prepared)
        with (
            self._clock.stage("network", case.identifier),
            tqdm(
                total=segmenter.num_windows(prepared),
                desc=printable(case.identifier),
                unit="window",
                leave=False,
                disable=not self._options.progress_bar,
            ) as bar,
        ):
            decisions = self._predictor.segment(prepared, bar.update, visit)
        # The image at the network's spacing goes before the next case comes.
        prepared = dataclasses.replace(prepared, data=torch.empty(0, 0, 0, 0), content=None)
        return Predicted(scan, prepared, decisions, probabilities, source)

    def write(self, case: Case, predicted: Predicted) -> None:
        """Writes everything that is asked for."""
        scan, source = predicted.scan, predicted.source
        predictor, results = self._predictor, self._results
        stage = partial(self._clock.stage, case=case.identifier)
        figures: dict[str, Any] = {}
        # The label maps come last: they are what tells a later run that the case is complete.
        if predicted.probabilities is not None:
            preprocessing, plan = predictor.preprocessing, predictor.plan
            names = predictor.model.class_names
            names = names if plan.channels is None else tuple(names[channel] for channel in plan.channels)
            assert isinstance(preprocessing, NnunetPreprocessing), "others are refused at the start"
            with stage("probabilities"):
                properties = preprocessing.stock_properties(scan, predicted.prepared)
                files = results.probabilities_of(case)
                predicted.probabilities.write(*files, preprocessing, predicted.prepared, names, properties)
        for output, targets in results.maps_of(case):
            with stage("painting"):
                labels = predictor.paint(predicted.decisions, output, predicted.prepared)
            if self._options.statistics:
                with stage("statistics"):
                    figures |= label_statistics(
                        labels, scan.channels[0], output.names, scan.grid.voxel_volume_ml, output.parts
                    )
            if self._options.preview:
                with stage("preview"):
                    where = results.preview_of(case, output)
                    write_preview(labels, scan.channels[0], output.names, scan.grid, where, title=case.identifier)
            with stage("writing"):
                found = segments_of(labels, output.names) if isinstance(source, SourceSeries) else []
                for kind, file in targets.items():
                    if kind not in DICOM_TYPES:
                        write_label_map(labels, output.names, scan.grid, file)
                    elif isinstance(source, SourceSeries):
                        write_dicom(labels, found, source, file, kind, self._algorithm)
        if self._options.statistics:
            write_json({"case": case.identifier, "classes": figures}, results.statistics_of(case))
        results.forget(case, maps=False)
        if isinstance(source, UserError):
            raise source
        results.note(case)

    @cached_property
    def _algorithm(self) -> Algorithm:
        model = self._predictor.model
        checkpoints = ", ".join(digest[:12] for digest in model.sha256.values())
        dataset = model.folder.resolve().parent.name
        return Algorithm(dataset if dataset.startswith("Dataset") else model.folder.resolve().name, checkpoints)

    def _source(self, case: Case, grid: Grid) -> SourceSeries | UserError | None:
        """The series that DICOM objects are asked for; what keeps it from it is told when the other files are there."""
        if not self._results.endings.keys() & DICOM_TYPES.keys():
            return None
        try:
            return read_source(case.files, grid, repair=self._options.repair)
        except UserError as error:
            if self._results.dicom_only:
                raise
            return error

    def _previous_stage(self, case: Case) -> Scan | None:
        folder, model = self._options.previous_stage, self._predictor.model
        if folder is None:
            return None
        file = folder / (case.identifier + model.file_ending)
        if not file.is_file():
            raise UserError(f"Expected the previous stage's label map {file}, but it does not exist.")
        return read_scan(Case(case.identifier, (file,)), 1, admit_2d=model.is_2d)
