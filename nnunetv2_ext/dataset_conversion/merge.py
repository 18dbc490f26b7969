"""Merges nnU-Net raw datasets into one collection in which every case keeps the classes of its own source."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nnunetv2_ext.dataset_conversion.case_record import CaseRecord, ConversionResult
from nnunetv2_ext.dataset_conversion.checks import TargetLabels
from nnunetv2_ext.dataset_conversion.converter import ConversionOptions, DatasetConverter
from nnunetv2_ext.dataset_conversion.entry import DatasetEntry
from nnunetv2_ext.dataset_conversion.layout import Case
from nnunetv2_ext.dataset_conversion.merge_inputs import InputDataset, read_input_dataset
from nnunetv2_ext.dataset_conversion.merge_plan import MergeOptions, MergePlan, plan_merge
from nnunetv2_ext.dataset_conversion.raw_dataset import convert_dataset
from nnunetv2_ext.dataset_conversion.splits import Splits, leave_one_source_out, stratified_splits
from nnunetv2_ext.dataset_conversion.summary import offer_page
from nnunetv2_ext.labels.atoms import AtomTable
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.paths import nnunet_folder, parse_new_dataset_name

logger = logging.getLogger(__name__)

_ENTRY = DatasetEntry("merge", "", "nnU-Net raw datasets, merged into one.", is_generic=True)


@dataclass(frozen=True, kw_only=True)
class MergeResult(ConversionResult):
    """What a merge made.

    Attributes:
        plan: Classes, label values and sources.
    """

    plan: MergePlan


def merge_datasets(
    datasets: Sequence[str],
    dataset_id: int,
    name: str,
    *,
    options: MergeOptions | None = None,
    copy: bool = False,
    group: str | None = None,
    orientation: str | None = None,
    leave_one_dataset_out: bool = False,
    overwrite: bool = False,
    processes: int = 0,
    progress: bool = True,
) -> MergeResult:
    """Builds ``nnUNet_raw/DatasetXXX_Name`` from raw datasets, or goes on with an interrupted merge of the same ones.

    The inputs are never changed. A bad case among them spoils the merge, which then leaves nothing behind.

    Args:
        datasets: IDs, names or folders of raw datasets, optionally as ``SOURCE=DATASET``; collections are allowed.
        dataset_id: ID of the new dataset.
        name: Its name without ``DatasetXXX_``.
        options: Classes to share, select, rename, and per-case exceptions.
        copy: Copy images instead of linking them.
        group: Which cases belong to one patient and stay in one fold (`read_groups`).
        orientation: Turn all images and label maps to it (`Grid.orientation`).
        leave_one_dataset_out: Make one fold per source, which validates on it and trains on the others.
        overwrite: Replace an existing dataset of this ID and name.
        processes: Number of worker processes; with 0, everything runs in this process.
        progress: Whether to show a progress bar.

    Raises:
        UserError: The inputs do not fit together, or files among them are bad.
    """
    folder = nnunet_folder("nnUNet_raw") / parse_new_dataset_name(dataset_id, name)
    inputs = [read_input_dataset(argument) for argument in datasets]
    chosen = ConversionOptions(copy_images=copy, group=group, orientation=orientation)
    merge = _Merge(inputs, plan_merge(inputs, options or MergeOptions()), chosen, leave_one_dataset_out)
    done = convert_dataset(merge, folder, num_processes=processes, overwrite=overwrite, progress=progress)
    result = MergeResult(plan=merge.plan, **vars(done))
    _say(result, {case.identifier: case.source for case in merge.cases()}, leave_one_dataset_out)
    return result


class _Merge(DatasetConverter):
    report_file = "merge_report.json"
    admits_2d = True
    all_or_nothing = True

    def __init__(
        self, inputs: Sequence[InputDataset], plan: MergePlan, options: ConversionOptions, leave_one_out: bool
    ) -> None:
        super().__init__(_ENTRY, inputs[0].folder, options)
        self._leave_one_out = leave_one_out
        sources = [name for name, source in plan.partial_labels.sources.items() if source.cases]
        if leave_one_out and len(sources) < 2:
            raise UserError(
                f"Expected cases for training from at least two sources with --leave_one_dataset_out, but found "
                f"{', '.join(sources) or 'none'}; merge several datasets, or leave the flag out."
            )
        self.inputs, self.plan = inputs, plan
        self._channels, self._target = inputs[0].channels, plan.target
        # Where the inputs differ, the ones that are not compressed NIfTI are rewritten.
        endings = {dataset.file_ending for dataset in inputs}
        self.file_ending = endings.pop() if len(endings) == 1 else ".nii.gz"

    def __getstate__(self) -> dict[str, Any]:
        # Worker processes get every case with what they need of the plan.
        return {name: value for name, value in vars(self).items() if name not in ("inputs", "plan")}

    @property
    def folders(self) -> list[Path]:
        return [dataset.folder for dataset in self.inputs]

    def channels(self) -> tuple[str, ...]:
        return self._channels

    @property
    def target(self) -> TargetLabels:
        return self._target

    def cases(self) -> list[Case]:
        return [
            replace(case, values=_explained(dataset, case, table))
            for dataset, table in zip(self.inputs, self.plan.value_tables, strict=True)
            for case in dataset.cases
        ]

    def values(self, case: Case) -> Mapping[int, int]:
        assert case.values is not None
        return case.values

    def meaning(self) -> dict[str, Any]:
        sections = self.plan.labels_json()
        sources = {name: source["classes"] for name, source in sections.pop("partial_labels").items()}
        return sections | {"sources": sources}

    def dataset_json(self, name: str, training: Sequence[str], table: AtomTable | None = None) -> dict[str, Any]:
        content = self.common_json(name, training)
        readers = {dataset.dataset_json.get("overwrite_image_reader_writer") for dataset in self.inputs}
        reader = readers.pop() if len(readers) == 1 else None
        if reader is not None:
            content["overwrite_image_reader_writer"] = reader
        provenance: dict[str, Any] = {}
        for dataset in self.inputs:
            inherited = dataset.dataset_json.get("sources", {})
            for source in dataset.sources:
                kept = ("description", "reference", "citation", "licence", "license", "release")
                own = {key: dataset.dataset_json[key] for key in kept if key in dataset.dataset_json}
                provenance[source] = inherited.get(source) or {"dataset": dataset.folder.resolve().name, **own}
        return content | self.plan.labels_json() | {"sources": provenance}

    def splits(self, training: Sequence[CaseRecord], groups: Sequence[Sequence[str]]) -> Splits:
        source_of = self.plan.partial_labels.source_of
        make = leave_one_source_out if self._leave_one_out else stratified_splits
        return make({record.identifier: source_of(record.identifier) for record in training}, groups)

    def report_entries(self, splits: Splits) -> dict[str, Any]:
        source_of = self.plan.partial_labels.source_of
        return {"folds_leave_out": [source_of(fold["val"][0]) for fold in splits]} if self._leave_one_out else {}


def _explained(dataset: InputDataset, case: Case, table: Mapping[int, int]) -> dict[int, int]:
    """The entries of a value table that a case may hold: a collection explains more than each of its sources."""
    if case.source not in dataset.sources:
        return dict(table)
    own = {value for name in dataset.sources[case.source].classes for value in dataset.regions[name]}
    return {value: merged for value, merged in table.items() if value in own | {0, dataset.ignore_label}}


def _say(result: MergeResult, source_of: Mapping[str, str], leave_one_out: bool) -> None:
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
        logger.warning(
            "The same image %s (%s), never on both sides of a fold: %s", across, sameness, ", ".join(group.cases)
        )
    if result.mixed_orientations:
        logger.warning("%s", result.mixed_orientations)
    if leave_one_out:
        for number, fold in enumerate(result.splits):
            train, val = len(fold["train"]), len(fold["val"])
            apart = sum(len(source.cases) for source in partial_labels.sources.values()) - train - val
            logger.info(
                "Fold %d leaves %s out: %d cases for training, %d for validation%s.",
                number,
                source_of[fold["val"][0]],
                train,
                val,
                f", {apart} for neither, which belong with cases of it" if apart else "",
            )
    elif not result.splits:
        logger.warning("All cases are one group, so there is nothing to split; train with fold 'all'.")
    elif len(result.splits) < 5:
        logger.warning("There are too few cases for 5 folds; wrote %d.", len(result.splits))
    logger.info("%s", offer_page(result.folder))
