"""Averages over cases, in the format of nnU-Net's summary.json and beyond."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnunetv2_ext.evaluation.metrics import LESIONS, METRICS
from nnunetv2_ext.utilities.files import atomic_path

ClassMetrics = Mapping[str, float]


@dataclass(frozen=True)
class CaseMetrics:
    """The scores of one case.

    Attributes:
        case: Identifier.
        source: The source that it belongs to; empty where there are none.
        reference: Label map that it was compared with.
        prediction: What was scored.
        metrics: Key of the class -> metric -> value; only classes that the case annotates.
    """

    case: str
    source: str
    reference: Path
    prediction: Path
    metrics: Mapping[str, ClassMetrics]


def summarise(cases: Sequence[CaseMetrics], class_names: Mapping[str, str]) -> dict[str, Any]:
    """The content of summary.json.

    ``metric_per_case``, ``mean`` and ``foreground_mean`` are nnU-Net's: its own tools read the file. Means leave NaN
    out (``foreground_mean`` too, where nnU-Net would become NaN when a class occurs nowhere). New are ``class_names``,
    ``median``, ``std``, ``counts`` and ``per_source``.

    Args:
        cases: What was scored.
        class_names: Key of the class -> its name, in the order of the output.
    """
    summary = _averages(cases, class_names)
    summary["class_names"] = dict(class_names)
    sources = list(dict.fromkeys(case.source for case in cases if case.source))
    summary["per_source"] = {
        source: _averages([case for case in cases if case.source == source], class_names) for source in sources
    }
    summary["metric_per_case"] = [
        {
            "case": case.case,
            "source": case.source,
            "reference_file": str(case.reference),
            "prediction_file": str(case.prediction),
            "metrics": {key: dict(metrics) for key, metrics in case.metrics.items()},
        }
        for case in cases
    ]
    return summary


def values_of(cases: Iterable[CaseMetrics], key: str, metric: str) -> list[float]:
    """One metric of one class over the cases that annotate it, NaN included."""
    return [case.metrics[key][metric] for case in cases if key in case.metrics]


def mean_dice(case: CaseMetrics) -> float:
    """Mean over the classes of a case."""
    return _over_numbers(np.mean, [metrics["Dice"] for metrics in case.metrics.values()])


def write_csv(cases: Sequence[CaseMetrics], class_names: Mapping[str, str], target: Path) -> None:
    """One line per case and class; an empty field is a NaN."""
    with atomic_path(target) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["case", "source", "class", "label", *METRICS])
        for case in cases:
            for key, metrics in case.metrics.items():
                numbers = ["" if np.isnan(metrics[name]) else repr(metrics[name]) for name in METRICS]
                writer.writerow([case.case, case.source, class_names[key], key, *numbers])


def _averages(cases: Sequence[CaseMetrics], class_names: Mapping[str, str]) -> dict[str, Any]:
    annotated = [key for key in class_names if any(key in case.metrics for case in cases)]
    statistics: dict[str, Any] = {"foreground_mean": {}, "mean": {}, "median": {}, "std": {}, "counts": {}}
    for key in annotated:
        columns = {metric: values_of(cases, key, metric) for metric in METRICS}
        for name, function in (("mean", np.mean), ("median", np.median), ("std", np.std)):
            statistics[name][key] = {metric: _over_numbers(function, values) for metric, values in columns.items()}
        pairs = list(zip(columns["n_ref"], columns["n_pred"], strict=True))
        statistics["counts"][key] = {
            "cases": len(pairs),
            "missed": sum(1 for n_ref, n_pred in pairs if n_ref and not n_pred),
            "invented": sum(1 for n_ref, n_pred in pairs if n_pred and not n_ref),
            "absent": sum(1 for n_ref, n_pred in pairs if not n_ref and not n_pred),
        }
        if not np.isnan(columns["LesionsDetected"]).all():
            statistics["counts"][key]["lesions"] = _lesions(*(int(sum(columns[name])) for name in LESIONS))
    statistics["foreground_mean"] = {
        metric: _over_numbers(np.mean, [statistics["mean"][key][metric] for key in annotated]) for metric in METRICS
    }
    return statistics


def _lesions(detected: int, missed: int, invented: int) -> dict[str, float]:
    """Detection over all cases; a ratio of nothing is NaN."""
    nan = float("nan")
    return {
        "detected": detected,
        "missed": missed,
        "invented": invented,
        "sensitivity": detected / (detected + missed) if detected + missed else nan,
        "F1": 2 * detected / (2 * detected + missed + invented) if detected + missed + invented else nan,
    }


def _over_numbers(function: Any, values: Sequence[float]) -> float:
    """A statistic of the values that are numbers; NaN where there are none."""
    numbers = [value for value in values if not np.isnan(value)]
    return float(function(numbers)) if numbers else float("nan")
