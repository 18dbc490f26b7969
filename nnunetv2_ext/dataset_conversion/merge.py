"""Merges nnU-Net raw datasets into one collection in which every case keeps the classes of its own source."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunetv2_ext.dataset_conversion.duplicates import DuplicateGroup, find_duplicates
from nnunetv2_ext.dataset_conversion.merge_case import MergedCase, MergeJob, merge_case
from nnunetv2_ext.dataset_conversion.merge_inputs import InputDataset, read_input_dataset
from nnunetv2_ext.dataset_conversion.merge_plan import MergeOptions, MergePlan, plan_merge
from nnunetv2_ext.dataset_conversion.splits import SPLITS_FILE, Splits, offer_splits, stratified_splits
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.files import refuse_existing, write_json
from nnunetv2_ext.utilities.folders import folder_under_construction
from nnunetv2_ext.utilities.parallel import parallel_map
from nnunetv2_ext.utilities.paths import nnunet_folder, parse_new_dataset_name, refuse_used_id

REPORT_FILE = "merge_report.json"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class MergeResult:
    """What a merge made.

    Attributes:
        folder: The new raw dataset.
        plan: Classes, label values and sources.
        duplicates: Images that occur more than once.
        splits: Content of ``splits_final.json``.
        placed: How many image files were linked, copied or rewritten.
    """

    folder: Path
    plan: MergePlan
    duplicates: tuple[DuplicateGroup, ...]
    splits: Splits
    placed: Mapping[str, int]


def merge_datasets(
    datasets: Sequence[str],
    dataset_id: int,
    name: str,
    *,
    options: MergeOptions | None = None,
    copy: bool = False,
    overwrite: bool = False,
    processes: int = 0,
    progress: bool = True,
) -> MergeResult:
    """Builds ``nnUNet_raw/DatasetXXX_Name`` from raw datasets.

    Everything is built in a hidden folder beside the target and renamed at the end, so an interrupted or failed merge
    leaves nothing behind. The inputs are never changed.

    Args:
        datasets: IDs, names or folders of raw datasets, optionally as ``SOURCE=DATASET``; collections are allowed.
        dataset_id: ID of the new dataset.
        name: Its name without ``DatasetXXX_``.
        options: Classes to share, select, rename, and per-case exceptions.
        copy: Copy images instead of linking them.
        overwrite: Replace an existing dataset of this ID and name.
        processes: Number of worker processes; with 0, everything runs in this process.
        progress: Whether to show a progress bar.

    Raises:
        UserError: The inputs do not fit together, or files among them are bad.
    """
    full_name = parse_new_dataset_name(dataset_id, name)
    raw = nnunet_folder("nnUNet_raw")
    target = raw / full_name
    refuse_existing(target, overwrite)
    refuse_used_id(full_name)
    inputs = [read_input_dataset(argument) for argument in datasets]
    plan = plan_merge(inputs, options or MergeOptions())
    endings = {dataset.file_ending for dataset in inputs}
    # Where the inputs differ, the ones that are not compressed NIfTI are rewritten.
    file_ending = endings.pop() if len(endings) == 1 else ".nii.gz"
    with folder_under_construction(
        target, overwrite=overwrite, sources=[dataset.folder for dataset in inputs]
    ) as folder:
        for part in ("imagesTr", "labelsTr"):
            (folder / part).mkdir()
        merged = _merge_cases(inputs, plan, folder, file_ending, copy, processes, progress)
        duplicates = find_duplicates({case: result.fingerprint for case, result in merged.items()})
        partial_labels = plan.partial_labels
        source_of = {case: partial_labels.source_of(case) for case in merged}
        splits = stratified_splits(source_of, [group.cases for group in duplicates])
        placed = Counter(how for result in merged.values() for how in result.placed)
        write_json(_dataset_json(inputs, plan, full_name, file_ending, len(merged)), folder / "dataset.json")
        write_json(_report(plan, merged, duplicates, placed), folder / REPORT_FILE)
        if splits:
            write_json(splits, folder / SPLITS_FILE)
    result = MergeResult(target, plan, tuple(duplicates), splits, placed)
    _say(result, source_of)
    _hand_over_splits(result, overwrite)
    return result


def _merge_cases(
    inputs: Sequence[InputDataset],
    plan: MergePlan,
    folder: Path,
    file_ending: str,
    copy: bool,
    processes: int,
    progress: bool,
) -> dict[str, MergedCase]:
    highest_value = max(value for table in plan.value_tables for value in table.values())
    jobs = [
        MergeJob(case, _explained(dataset, case.source, table), folder, file_ending, copy, highest_value)
        for dataset, table in zip(inputs, plan.value_tables, strict=True)
        for case in dataset.cases
    ]
    merged: dict[str, MergedCase] = {}
    problems: list[str] = []
    for outcome in parallel_map(merge_case, jobs, processes=processes, description="Merging", progress=progress):
        if outcome.result is None:
            problems.append(outcome.error or "")
        else:
            merged[outcome.item.case.name] = outcome.result
    if problems:
        for problem in problems[1:]:
            logger.error("%s", problem)
        others = f" ({len(problems) - 1} more bad cases are listed above)" if problems[1:] else ""
        raise UserError(f"{problems[0]}{others} Nothing was written.")
    return merged


def _explained(dataset: InputDataset, source: str, table: Mapping[int, int]) -> dict[int, int]:
    """The entries of a value table that cases of one source may hold: a collection explains more than each source."""
    own = {value for name in dataset.sources[source].classes for value in dataset.regions[name]}
    return {value: merged for value, merged in table.items() if value in own | {0, dataset.ignore_label}}


def _dataset_json(
    inputs: Sequence[InputDataset], plan: MergePlan, full_name: str, file_ending: str, number_of_cases: int
) -> dict[str, Any]:
    content: dict[str, Any] = {
        "name": full_name,
        "channel_names": {str(index): channel for index, channel in enumerate(inputs[0].channels)},
        "numTraining": number_of_cases,
        "file_ending": file_ending,
    }
    readers = {dataset.dataset_json.get("overwrite_image_reader_writer") for dataset in inputs}
    reader = readers.pop() if len(readers) == 1 else None
    if reader is not None:
        content["overwrite_image_reader_writer"] = reader
    provenance: dict[str, Any] = {}
    for dataset in inputs:
        inherited = dataset.dataset_json.get("sources", {})
        for source in dataset.sources:
            kept = ("description", "reference", "citation", "licence", "license", "release")
            own = {key: dataset.dataset_json[key] for key in kept if key in dataset.dataset_json}
            provenance[source] = inherited.get(source) or {"dataset": dataset.folder.resolve().name, **own}
    return content | plan.labels_json() | {"sources": provenance}


def _report(
    plan: MergePlan,
    merged: Mapping[str, MergedCase],
    duplicates: Sequence[DuplicateGroup],
    placed: Mapping[str, int],
) -> dict[str, Any]:
    partial_labels = plan.partial_labels
    voxels: Counter[int] = Counter()
    cases: Counter[int] = Counter()
    for result in merged.values():
        voxels.update(result.voxels)
        cases.update(result.voxels.keys())
    empty = [
        case
        for case, result in merged.items()
        if not set(result.voxels) - {partial_labels.ignore_label} and partial_labels.annotated(case).any()
    ]
    return {
        "cases": {name: len(source.cases) for name, source in partial_labels.sources.items()},
        "classes": {
            name: {
                "label_values": list(partial_labels.label_values(name)),
                "sources": [source for source, entry in partial_labels.sources.items() if name in entry.classes],
                "voxels": sum(voxels[value] for value in partial_labels.label_values(name)),
            }
            for name in partial_labels.class_names
        },
        "cases_per_label_value": {str(value): cases[value] for value in sorted(cases)},
        "cases_without_foreground": empty,
        "duplicates": [{"cases": list(group.cases), "identical": group.identical} for group in duplicates],
        "image_files": dict(placed),
    }


def _say(result: MergeResult, source_of: Mapping[str, str]) -> None:
    partial_labels = result.plan.partial_labels
    logger.info(
        "Merged %d sources, %d cases and %d classes into %s (image files: %s).",
        len(partial_labels.sources),
        len(source_of),
        len(partial_labels.class_names),
        result.folder,
        ", ".join(f"{number} x {how}" for how, number in result.placed.items()),
    )
    for group in result.duplicates:
        across = "across sources" if len({source_of[case] for case in group.cases}) > 1 else "within one source"
        sameness = "equal voxels" if group.identical else "equal shape and statistics"
        logger.warning("The same image %s (%s), kept in one fold: %s", across, sameness, ", ".join(group.cases))


def _hand_over_splits(result: MergeResult, overwrite: bool) -> None:
    """Writes the splits where stock nnU-Net reads them, or says what is missing for that."""
    if not result.splits:
        logger.warning("All cases are one group, so there is nothing to split; train with fold 'all'.")
        return
    if len(result.splits) < 5:
        logger.warning("There are too few cases for 5 folds; wrote %d.", len(result.splits))
    if not os.environ.get("nnUNet_preprocessed", "").strip():
        logger.warning(
            "nnUNet_preprocessed is not set; copy %s to nnUNet_preprocessed/%s before training, else nnU-Net draws its "
            "own folds.",
            result.folder / SPLITS_FILE,
            result.folder.name,
        )
        return
    offer_splits(result.folder, overwrite)
