"""The one writer of nnU-Net raw datasets.

Cases are converted one by one in worker processes. Each leaves a record when, and only when, its files are complete, so
an interrupted conversion goes on where it stopped. When all cases are through, the label values of overlapping masks
are fixed, duplicates are looked for, and dataset.json, splits and the conversion report are written.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nnunetv2_ext import __version__
from nnunetv2_ext.dataset_conversion.case_conversion import (
    FILE_ENDING,
    RECORD,
    WORK,
    CaseRecord,
    Job,
    convert_case,
    encoded_file,
    planned_files,
    source_files,
)
from nnunetv2_ext.dataset_conversion.converter import DatasetConverter
from nnunetv2_ext.dataset_conversion.duplicates import DuplicateGroup, find_duplicates
from nnunetv2_ext.dataset_conversion.findings import ERROR, Finding, severity
from nnunetv2_ext.dataset_conversion.layout import Case, named_cases
from nnunetv2_ext.dataset_conversion.splits import SPLITS_FILE, Splits, offer_splits, stratified_splits
from nnunetv2_ext.images.label_maps import write_volume
from nnunetv2_ext.images.reading import read_volume
from nnunetv2_ext.labels.atoms import AtomTable, Combination, EncodedMasks
from nnunetv2_ext.labels.label_order import BACKGROUND, LabelOrder
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.files import clear_leftovers, read_json, write_json
from nnunetv2_ext.utilities.folders import folder_under_construction, refuse_overlap
from nnunetv2_ext.utilities.locks import output_lock
from nnunetv2_ext.utilities.names import quoted
from nnunetv2_ext.utilities.parallel import parallel_map
from nnunetv2_ext.utilities.paths import refuse_used_id
from nnunetv2_ext.utilities.validation import anything, entries, mapping_of

_logger = logging.getLogger(__name__)

REPORT = "conversion_report.json"


@dataclass(frozen=True)
class ConversionResult:
    """What came of a conversion.

    Attributes:
        folder: The nnU-Net raw dataset.
        records: All cases, those that failed included.
    """

    folder: Path
    records: tuple[CaseRecord, ...]

    @property
    def converted(self) -> list[CaseRecord]:
        """Cases that are in the dataset."""
        return [record for record in self.records if not record.failed]

    @property
    def failed(self) -> list[CaseRecord]:
        """Cases that are not, with the reason as their last finding."""
        return [record for record in self.records if record.failed]


def convert_dataset(
    converter: DatasetConverter,
    folder: Path,
    *,
    num_processes: int = 0,
    overwrite: bool = False,
    progress: bool = True,
) -> ConversionResult:
    """Converts a dataset, or goes on with an interrupted conversion.

    Args:
        converter: Knows the source.
        folder: ``<nnUNet_raw>/DatasetXXX_Name``.
        num_processes: Cases converted at the same time, each by a process; with 0, all by this one.
        overwrite: Replace an existing ``folder`` when the new one is complete.
        progress: Show a progress bar.

    Raises:
        UserError: The source does not have the expected layout or overlaps with ``folder``, that holds something else,
            another run writes it, or no case could be converted.
    """
    refuse_overlap([converter.source], folder)
    refuse_used_id(folder.name)
    arguments = (folder.name, num_processes, progress)
    with output_lock(folder):
        if overwrite and folder.exists():
            with folder_under_construction(folder) as new:
                result = replace(_convert(converter, new, *arguments), folder=folder)
        else:
            result = _convert(converter, folder, *arguments)
        if os.environ.get("nnUNet_preprocessed", "").strip():
            offer_splits(folder)
    return result


def _convert(
    converter: DatasetConverter, folder: Path, name: str, num_processes: int, progress: bool
) -> ConversionResult:
    cases = named_cases(converter.cases())
    # Whatever is wrong with the classes is said now and not after hours.
    order = converter.target_order
    if converter.options.regions:
        region_labels(order)
    settings = _settings(converter)
    known = _open(folder, settings)
    complete = _trusted(known, cases, converter, folder)
    waiting = [case for case in cases if case.identifier not in complete]
    if complete:
        _logger.info("Going on with %s: %d of %d cases are complete.", name, len(complete), len(cases))
    records = dict(complete)
    jobs = [Job(converter, case, folder) for case in waiting]
    for outcome in parallel_map(
        convert_case, jobs, processes=num_processes, description="Converting", progress=progress, expected_errors=()
    ):
        if outcome.error is not None and not outcome.lost:
            raise UserError(outcome.error)
        record = outcome.result or convert_case(outcome.item, problem=outcome.error or "")
        records[record.identifier] = record
    ordered = [records[case.identifier] for case in cases]
    groups = _find_duplicates(ordered, converter, folder)
    result = ConversionResult(folder, tuple(ordered))
    if not result.converted:
        if not (folder / REPORT).exists():
            # There is nothing to go on with, and what is left of a new dataset would occupy its ID.
            shutil.rmtree(folder)
        raise UserError(
            f"Expected at least one good case of {converter.name}, but none could be converted; the first reason: "
            f"{result.failed[0].findings[-1].message}"
        )
    table = _fix_overlaps(converter, result.converted, folder, num_processes, progress)
    _write_descriptions(converter, result, name, settings, table, groups)
    shutil.rmtree(folder / WORK)
    return result


def dataset_json(
    converter: DatasetConverter, name: str, training: Sequence[str], table: AtomTable | None = None
) -> dict[str, Any]:
    """The content of dataset.json.

    Args:
        converter: Knows classes, licence and citation.
        name: Folder name of the dataset.
        training: Identifiers of the training cases.
        table: Label values of overlapping masks, where there are any.
    """
    order = converter.target_order
    content: dict[str, Any] = {
        "channel_names": {str(index): channel for index, channel in enumerate(converter.channels())},
        "labels": order.nnunet_labels(),
        "numTraining": len(training),
        "file_ending": FILE_ENDING,
        "name": name,
        "description": order.description,
        "reference": order.source,
        "licence": order.licence,
        "converted_by": f"nnunetv2-ext {__version__}, nnUNetv2_ext_convert_dataset {converter.name}",
    }
    if table is not None and table.has_overlaps:
        content["labels"] = table.labels_json()
        content["regions_class_order"] = table.regions_class_order()
    elif converter.options.regions:
        content["labels"], content["regions_class_order"] = region_labels(order)
    return content | converter.metadata(training)


def region_labels(order: LabelOrder) -> tuple[dict[str, Any], list[int]]:
    """``labels`` and ``regions_class_order`` for the overlapping classes that the field evaluates.

    nnU-Net paints regions one over the other in this order, each with one integer: one that belongs to the region and
    to none that is painted later.

    Raises:
        UserError: The order has no regions.
    """
    if not order.regions:
        raise UserError(f"Expected regions in the label order {order.name} for --regions, but it has none.")
    values = {name: sorted(order.value(member) for member in members) for name, members in order.regions.items()}
    outer_first = sorted(values, key=lambda name: -len(values[name]))
    labels: dict[str, Any] = {BACKGROUND: 0}
    painted = []
    for position, name in enumerate(outer_first):
        later = {value for other in outer_first[position + 1 :] for value in values[other]}
        painted.append(next((value for value in values[name] if value not in later), values[name][0]))
        # A list of one integer would not be a region to nnU-Net.
        labels[name] = values[name] if len(values[name]) > 1 else values[name] * 2
    return labels, painted


# State -------------------------------------------------------------------------------------------------------------


def _settings(converter: DatasetConverter) -> dict[str, Any]:
    options = converter.options
    return {
        "converter": converter.name,
        "source": str(converter.source.resolve()),
        **{name: getattr(options, name) for name in ("order", "image", "label", "overlaps")},
        "channels": list(converter.channels()),
    }


def _open(folder: Path, settings: dict[str, Any]) -> dict[str, CaseRecord]:
    """Makes the folder ready and returns the records of an earlier conversion with the same settings."""
    work, report = folder / WORK, folder / REPORT
    records: dict[str, CaseRecord] = {}
    clear_leftovers(folder, inside=True)
    if any(not path.is_dir() for path in folder.rglob("*")):
        earlier = [file for file in (work / "settings.json", report) if file.is_file()]
        contents = [read_json(file, mapping_of(anything)) for file in earlier]
        found = [content.get("settings", content) for content in contents]
        if settings not in found:
            what = "comes from another source or other options" if found else "was not made by this command"
            raise UserError(f"{folder} exists and {what}; choose another dataset ID or pass --overwrite.")
        if report.is_file():
            cases = read_json(report, entries({"cases": mapping_of(RECORD)}, needed=("cases",)))["cases"]
            records = {case["identifier"]: CaseRecord.from_json(case) for case in cases.values()}
        for file in work.glob("*.json") if work.is_dir() else ():
            if file.name != "settings.json":
                record = CaseRecord.from_json(read_json(file, RECORD))
                records[record.identifier] = record
    write_json(settings, work / "settings.json")
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(exist_ok=True)
    return records


def _trusted(
    known: dict[str, CaseRecord], cases: Sequence[Case], converter: DatasetConverter, folder: Path
) -> dict[str, CaseRecord]:
    """Records of complete cases, whose findings are no errors under the present settings."""
    options = converter.options
    names = {case.identifier for case in cases}
    trusted: dict[str, CaseRecord] = {}
    strange = [record.identifier for record in known.values() if not record.failed and record.identifier not in names]
    if strange:
        raise UserError(
            f"Expected cases of {converter.name} in {folder}, but {quoted(strange[0])} is none, or has another name by "
            "now; choose another dataset ID or pass --overwrite."
        )
    for case in cases:
        record = known.get(case.identifier)
        if record is None or record.failed or not _made_from(record, case):
            continue
        images, label = planned_files(case, len(converter.channels()))
        files = [folder / file for file in images]
        if label:
            files.append(encoded_file(folder, case.identifier) if record.overlaps else folder / label)
        record.findings = [finding for finding in record.findings if finding.kind != "duplicate"]
        levels = [severity(item.kind, strict=options.strict, accepted=options.accept) for item in record.findings]
        if ERROR not in levels and all(file.is_file() for file in files):
            trusted[case.identifier] = record
    return trusted


def _made_from(record: CaseRecord, case: Case) -> bool:
    """Whether the record is that of a case's present files, not of others that had its name."""
    return [*map(os.path.abspath, record.sources)] == [*map(os.path.abspath, source_files(case))]


# After all cases ---------------------------------------------------------------------------------------------------


def _find_duplicates(records: Sequence[CaseRecord], converter: DatasetConverter, folder: Path) -> list[DuplicateGroup]:
    """Adds a finding to every case whose image an earlier case has; with ``--strict`` such a case is taken out.

    Returns:
        Groups of cases in the dataset that show the same image.
    """
    options = converter.options
    is_error = severity("duplicate", strict=options.strict, accepted=options.accept) == ERROR
    by_name = {record.identifier: record for record in records if not record.failed}
    groups = find_duplicates(
        {name: record.fingerprint for name, record in by_name.items() if record.fingerprint is not None}
    )
    for group in groups:
        first, *others = (by_name[name] for name in by_name if name in group.cases)
        how = "the same image" if group.identical else "the same image but for its header and value range"
        for record in others:
            message = f"Expected every image once, but {first.identifier} ({first.split}) has {how}."
            record.findings.append(Finding("duplicate", message))
            record.failed = is_error
            for file in (*record.images, *([record.label] if record.label else [])) if is_error else ():
                (folder / file).unlink(missing_ok=True)
    return [] if is_error else groups


def _fix_overlaps(
    converter: DatasetConverter, records: Sequence[CaseRecord], folder: Path, num_processes: int, progress: bool
) -> AtomTable | None:
    """Gives every combination of overlapping masks its integer, now that all cases are known."""
    voxels: Counter[Combination] = Counter()
    for record in records:
        voxels.update(dict(record.combinations))
    if not voxels:
        return None
    table = AtomTable(list(converter.order.labels), voxels)
    jobs = [_Relabelling(folder, record, table) for record in records if record.overlaps]
    for outcome in parallel_map(
        _relabel, jobs, processes=num_processes, description="Fixing overlaps", progress=progress
    ):
        if outcome.error:
            raise UserError(outcome.error)
    return table


@dataclass(frozen=True)
class _Relabelling:
    folder: Path
    record: CaseRecord
    table: AtomTable

    def __str__(self) -> str:
        return self.record.identifier


def _relabel(job: _Relabelling) -> None:
    folder, record, table = job.folder, job.record, job.table
    volume = read_volume(encoded_file(folder, record.identifier))
    combinations = ((), *(combination for combination, _ in record.combinations))
    encoded = EncodedMasks(volume.array, combinations, (0, *(count for _, count in record.combinations)))
    assert record.label is not None
    write_volume(volume.with_array(table.relabel(encoded)), folder / record.label)


def _write_descriptions(
    converter: DatasetConverter,
    result: ConversionResult,
    name: str,
    settings: dict[str, Any],
    table: AtomTable | None,
    groups: Sequence[DuplicateGroup],
) -> None:
    folder = result.folder
    training = [record for record in result.converted if record.split != "test"]
    splits = _splits(training, groups)
    if splits:
        write_json(splits, folder / SPLITS_FILE)
    write_json(_report(result, settings), folder / REPORT)
    # Last, because nnU-Net takes a folder with a dataset.json for complete.
    cases = [record.identifier for record in training]
    write_json(dataset_json(converter, name, cases, table), folder / "dataset.json")


def _splits(training: Sequence[CaseRecord], groups: Sequence[DuplicateGroup]) -> Splits:
    """The source's own folds; where it has none but has duplicates, folds that keep these together; else nothing."""
    names = sorted(record.identifier for record in training)
    validation: list[set[str]] = []
    if any(record.fold is not None for record in training):
        folds: dict[int, set[str]] = defaultdict(set)
        for record in training:
            if record.fold is not None:
                folds[record.fold].add(record.identifier)
        validation = [folds[fold] for fold in sorted(folds)]
    elif any(record.split == "val" for record in training):
        validation = [{record.identifier for record in training if record.split == "val"}]
    elif groups:
        known = set(names)
        copies = [[case for case in group.cases if case in known] for group in groups]
        return stratified_splits(dict.fromkeys(names, ""), copies)
    return [
        {"train": [name for name in names if name not in held_out], "val": sorted(held_out)} for held_out in validation
    ]


def _report(result: ConversionResult, settings: dict[str, Any]) -> dict[str, Any]:
    voxels: Counter[str] = Counter()
    cases: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    for record in result.records:
        kinds.update({finding.kind for finding in record.findings})
        if not record.failed:
            voxels.update(record.voxels)
            cases.update(name for name, count in record.voxels.items() if count)
    return {
        "settings": settings,
        "version": __version__,
        "converted": len(result.converted),
        "failed": {record.identifier: record.findings[-1].message for record in result.failed},
        "findings": dict(kinds),
        "classes": {name: {"voxels": voxels[name], "cases": cases[name]} for name in voxels},
        "cases": {record.identifier: record.to_json() for record in result.records},
    }
