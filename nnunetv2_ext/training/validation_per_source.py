"""The final validation of a collection: each case is evaluated as its own source annotates it."""

from __future__ import annotations

import multiprocessing
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from nnunetv2.evaluation.evaluate_predictions import compute_metrics
from nnunetv2.utilities.json_export import recursive_fix_for_json_export

from nnunetv2_ext.labels.partial_labels import PartialLabels
from nnunetv2_ext.labels.tree_sources import DeterminedNodes
from nnunetv2_ext.training.validation import evaluating_processes, reference_folder, validation_folder
from nnunetv2_ext.utilities.files import write_json
from nnunetv2_ext.utilities.names import case_names


@dataclass(frozen=True)
class CasesOfOneKind:
    """Validation cases of one source that annotate the same classes.

    Attributes:
        source: Name of the source.
        classes: Indices of the annotated classes (output channels), ascending.
        cases: Identifiers.
    """

    source: str
    classes: tuple[int, ...]
    cases: tuple[str, ...]


def group_cases(partial_labels: PartialLabels | DeterminedNodes, cases: Iterable[str]) -> list[CasesOfOneKind]:
    """Sorts cases by source and annotated classes; cases that annotate nothing are left out.

    Raises:
        UserError: A case belongs to no source.
    """
    groups: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    for case in cases:
        classes = tuple(np.flatnonzero(partial_labels.annotated(case)).tolist())
        groups.setdefault((partial_labels.source_of(case), classes), []).append(case)
    kinds = sorted((source, classes) for source, classes in groups if classes)
    return [CasesOfOneKind(source, classes, tuple(groups[source, classes])) for source, classes in kinds]


def evaluate_per_source(
    trainer: Any, kinds: Sequence[CasesOfOneKind], class_names: Mapping[tuple[int, ...], str]
) -> dict[str, Any]:
    """Evaluates the folder ``validation`` and writes one summary for all cases and one per source into it.

    The summaries have the format of nnU-Net's ``summary.json``, plus ``class_names``. Each class is averaged over the
    cases that annotate it; the foreground mean leaves out classes that occur in no case.

    Args:
        trainer: The trainer whose predictions these are.
        kinds: Which cases were predicted.
        class_names: Label values of each class to its name, in the order of the classes.

    Returns:
        The summary of all sources.
    """
    folder, ending = validation_folder(trainer), trainer.dataset_json["file_ending"]
    reader = trainer.plans_manager.image_reader_writer_class()
    regions = list(class_names)
    jobs = [
        (
            str(reference_folder(trainer) / f"{case}{ending}"),
            str(folder / f"{case}{ending}"),
            reader,
            [regions[index] for index in kind.classes],
            trainer.label_manager.ignore_label,
        )
        for kind in kinds
        for case in kind.cases
    ]
    # nnU-Net's function for folders takes the same classes of all their files, and a pool of processes for each.
    with multiprocessing.get_context("spawn").Pool(evaluating_processes(trainer, len(jobs))) as pool:
        evaluated = iter(pool.starmap(compute_metrics, jobs))
    cases_by_source: dict[str, list[dict[str, Any]]] = {}
    for kind in kinds:
        for case in islice(evaluated, len(kind.cases)):
            recursive_fix_for_json_export(case)
            case["metrics"] = {str(region): values for region, values in case["metrics"].items()}
            cases_by_source.setdefault(kind.source, []).append(case)
    names = {str(region): name for region, name in class_names.items()}
    for source, name in case_names(cases_by_source).items():
        write_json(_summarise(cases_by_source[source], names), folder / f"summary_{name}.json")
    summary = _summarise([case for cases in cases_by_source.values() for case in cases], names)
    write_json(summary, folder / "summary.json")
    return summary


def _summarise(cases: list[dict[str, Any]], class_names: Mapping[str, str]) -> dict[str, Any]:
    regions = [region for region in class_names if any(region in case["metrics"] for case in cases)]
    mean = {
        region: _mean_of_each([case["metrics"][region] for case in cases if region in case["metrics"]])
        for region in regions
    }
    return {
        "class_names": {region: class_names[region] for region in regions},
        "foreground_mean": _mean_of_each(list(mean.values())),
        "mean": mean,
        "metric_per_case": cases,
    }


def _mean_of_each(metrics: Sequence[Mapping[str, float]]) -> dict[str, float]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Mean of empty slice")  # a class that occurs nowhere has no Dice
        return {name: float(np.nanmean([values[name] for values in metrics])) for name in (metrics or [{}])[0]}
