"""What is written about a case that was predicted: label maps, probabilities, figures and a picture.

A new kind of output joins here: a file in `Results`, and the lines that write it in `CaseWriter.write`. Formats of
label maps are those of `images.label_maps`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from nnunetv2_ext.images.label_maps import write_label_map
from nnunetv2_ext.images.preview import write_preview
from nnunetv2_ext.images.reading import Case, Scan
from nnunetv2_ext.inference.deciding.rules import Decisions
from nnunetv2_ext.inference.preparing.nnunet import NnunetPreprocessing
from nnunetv2_ext.inference.preparing.protocol import Prepared
from nnunetv2_ext.inference.reporting.probabilities import Probabilities
from nnunetv2_ext.inference.reporting.report import StageClock
from nnunetv2_ext.inference.reporting.statistics import label_statistics
from nnunetv2_ext.inference.results import Results
from nnunetv2_ext.utilities.files import write_json

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


class CaseWriter:
    """Writes one case after the other, also from several threads at once.

    Args:
        predictor: Paints label maps.
        results: Where files go.
        options: What to write.
        clock: Measures the stages.
    """

    def __init__(self, predictor: Predictor, results: Results, options: PredictionOptions, clock: StageClock) -> None:
        self._predictor, self._results, self._options, self._clock = predictor, results, options, clock

    def write(self, case: Case, predicted: Predicted) -> None:
        """Writes everything that is asked for."""
        scan, predictor, results = predicted.scan, self._predictor, self._results
        stage = partial(self._clock.stage, case=case.identifier)
        figures: dict[str, Any] = {}
        # The label maps come last: they are what tells a later run that the case is complete.
        if predicted.probabilities is not None:
            preprocessing, plan = predictor.preprocessing, predictor.plan
            names = predictor.model.class_names
            names = names if plan.channels is None else tuple(names[channel] for channel in plan.channels)
            assert isinstance(preprocessing, NnunetPreprocessing), "bundles are refused at the start"
            with stage("probabilities"):
                properties = preprocessing.stock_properties(scan, predicted.prepared)
                files = results.probabilities_of(case)
                predicted.probabilities.write(*files, preprocessing, predicted.prepared, names, properties)
        for output, file in results.maps_of(case):
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
                write_label_map(labels, output.names, scan.grid, file)
        if self._options.statistics:
            write_json({"case": case.identifier, "classes": figures}, results.statistics_of(case))
        results.forget(case, maps=False)
