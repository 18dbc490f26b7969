"""The final validation of a collection: each case is evaluated as its own source annotates it."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnunetv2_ext.labels.partial_labels import PartialLabels
from nnunetv2_ext.labels.tree_sources import DeterminedNodes
from nnunetv2_ext.utilities.files import atomic_path, read_json, write_json
from nnunetv2_ext.utilities.names import case_names

_UNFINISHED = "validation_unfinished"


@dataclass(frozen=True)
class CasesOfOneKind:
    """Validation cases of one source that annotate the same classes.

    Attributes:
        source: Name of the source.
        classes: Indices of the annotated classes (output channels), ascending.
        cases: Identifiers.
        number: Distinguishes kinds (a source has several when some of its cases lack a class).
    """

    source: str
    classes: tuple[int, ...]
    cases: tuple[str, ...]
    number: int

    def dataset_json(self, dataset_json: Mapping[str, Any]) -> dict[str, Any]:
        """The dataset.json of a dataset that has these classes only."""
        names = [name for name in dataset_json["labels"] if name not in ("background", "ignore")]
        # Without the ignore label: nnU-Net insists that it follows the highest label value, of which some are gone.
        labels = {"background": 0, **{names[index]: dataset_json["labels"][names[index]] for index in self.classes}}
        order = [dataset_json["regions_class_order"][index] for index in self.classes]
        return {**dataset_json, "labels": labels, "regions_class_order": order}

    def folder(self, output_folder: Path | str) -> Path:
        """Where nnU-Net's validation of these cases writes until all kinds are merged."""
        return Path(output_folder) / _UNFINISHED / str(self.number)


@dataclass(frozen=True)
class EvaluatedClasses:
    """What nnU-Net's final validation asks of a label manager.

    Attributes:
        foreground_regions: Label values of each class.
        ignore_label: Label value of voxels that count nowhere.
        foreground_labels: Label values of a previous stage, for cascades.
        has_regions: Always true for a collection.
    """

    foreground_regions: list[tuple[int, ...]]
    ignore_label: int | None
    foreground_labels: list[int]
    has_regions: bool = True


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
    return [
        CasesOfOneKind(source, classes, tuple(groups[source, classes]), number)
        for number, (source, classes) in enumerate(kinds)
    ]


def merge_summaries(
    output_folder: Path | str, kinds: Sequence[CasesOfOneKind], class_names: Mapping[str, str]
) -> dict[str, Any]:
    """Moves the predictions of all kinds into ``validation`` and writes one summary for all and one per source.

    The summaries have the format of nnU-Net's ``summary.json``, plus ``class_names``. Each class is averaged over the
    cases that annotate it; the foreground mean leaves out classes that occur in no case.

    Args:
        output_folder: Folder of the fold.
        kinds: Those whose validation has run.
        class_names: Region as nnU-Net writes it, such as ``"(1, 1)"``, to name.

    Returns:
        The summary of all sources.
    """
    folder = Path(output_folder) / "validation"
    folder.mkdir(exist_ok=True)
    cases_by_source: dict[str, list[dict[str, Any]]] = {}
    for kind in kinds:
        finished = kind.folder(output_folder) / "validation"
        cases = read_json(finished / "summary.json")["metric_per_case"]
        (finished / "summary.json").unlink()
        for file in finished.iterdir():
            if file.suffix == ".npz":
                _add_channels(file, kind.classes, len(class_names))
            file.replace(folder / file.name)
        for case in cases:
            case["prediction_file"] = str(folder / Path(case["prediction_file"]).name)
        cases_by_source.setdefault(kind.source, []).extend(cases)
    shutil.rmtree(Path(output_folder) / _UNFINISHED, ignore_errors=True)
    for source, name in case_names(cases_by_source).items():
        write_json(_summarise(cases_by_source[source], class_names), folder / f"summary_{name}.json")
    summary = _summarise([case for cases in cases_by_source.values() for case in cases], class_names)
    write_json(summary, folder / "summary.json")
    return summary


def _add_channels(file: Path, classes: tuple[int, ...], channels: int) -> None:
    """Completes probabilities of some classes with zeros for the others, which this validation did not predict.

    Args:
        file: What nnU-Net wrote with ``--npz``.
        classes: The channels that it holds, unless it holds all.
        channels: How many the network has, and nnU-Net's ensembling expects.
    """
    with np.load(file) as content:
        probabilities = content["probabilities"]
    if len(probabilities) == len(classes) < channels:
        complete = np.zeros((channels, *probabilities.shape[1:]), probabilities.dtype)
        complete[list(classes)] = probabilities
        with atomic_path(file) as temporary:
            np.savez_compressed(temporary, probabilities=complete)


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
