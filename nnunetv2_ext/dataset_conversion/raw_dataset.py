"""The one writer of nnU-Net raw datasets.

Cases are converted one by one in worker processes. Each leaves a record when, and only when, its files are complete, so
an interrupted conversion goes on where it stopped. When all cases are through, the label values of overlapping masks
are fixed, duplicates are looked for, and dataset.json, splits and the conversion report are written.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nnunetv2_ext.dataset_conversion.case_conversion import WORK, Job, convert_case, encoded_file, planned_files
from nnunetv2_ext.dataset_conversion.case_record import (
    HARD_LINK,
    RECORD,
    SYMBOLIC_LINK,
    CaseRecord,
    ConversionResult,
    stamp_of,
)
from nnunetv2_ext.dataset_conversion.converter import DatasetConverter
from nnunetv2_ext.dataset_conversion.duplicates import DuplicateGroup, find_duplicates, joined
from nnunetv2_ext.dataset_conversion.findings import ERROR, Finding, severity
from nnunetv2_ext.dataset_conversion.grouping import read_groups
from nnunetv2_ext.dataset_conversion.layout import Case, named_cases
from nnunetv2_ext.dataset_conversion.splits import SPLITS_FILE, hand_over_splits, read_splits
from nnunetv2_ext.images.label_maps import write_volume
from nnunetv2_ext.images.reading import read_volume
from nnunetv2_ext.labels.atoms import AtomTable, Combination, EncodedMasks
from nnunetv2_ext.labels.dataset_json import ORIENTATION
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.files import clear_leftovers, read_json, write_json, writing_in
from nnunetv2_ext.utilities.folders import folder_under_construction, refuse_overlap
from nnunetv2_ext.utilities.locks import output_lock
from nnunetv2_ext.utilities.names import quoted
from nnunetv2_ext.utilities.parallel import parallel_map
from nnunetv2_ext.utilities.paths import refuse_used_id
from nnunetv2_ext.utilities.validation import anything, entries, mapping_of

_logger = logging.getLogger(__name__)

_ADVICE = "choose another dataset ID or pass --overwrite."


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
    refuse_overlap(converter.folders, folder)
    refuse_used_id(folder.name)
    with output_lock(folder):
        former = read_splits(folder / SPLITS_FILE) if (folder / SPLITS_FILE).is_file() else []
        if overwrite and folder.exists():
            with folder_under_construction(folder) as new:
                result = replace(_convert(converter, new, folder.name, num_processes, progress), folder=folder)
        else:
            result = _convert(converter, folder, folder.name, num_processes, progress)
        hand_over_splits(folder, former)
    return result


def _convert(
    converter: DatasetConverter, folder: Path, name: str, num_processes: int, progress: bool
) -> ConversionResult:
    cases = named_cases(converter.cases())
    # Whatever is wrong with classes and groups is said now and not after hours.
    settings = json.loads(json.dumps(converter.settings()))
    group = converter.options.group
    patients = read_groups(group, [case.identifier for case in cases if case.split != "test"]) if group else []
    with writing_in(folder):
        pass
    complete = _trusted(_records(folder, settings, converter.report_file), cases, converter, folder)
    write_json(settings, folder / WORK / "settings.json")
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(exist_ok=True)
    waiting = [case for case in cases if case.identifier not in complete]
    if complete:
        _logger.info("Going on with %s: %d of %d cases are complete.", name, len(complete), len(cases))
    finished = not waiting and (folder / "dataset.json").exists()
    if not finished:
        # nnU-Net takes a folder with a dataset.json for complete.
        (folder / "dataset.json").unlink(missing_ok=True)
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
    result = ConversionResult(folder, tuple(ordered), tuple(groups))
    if not result.converted or (converter.all_or_nothing and result.failed):
        if not (folder / converter.report_file).exists():
            # What is left of a new dataset would occupy its ID.
            shutil.rmtree(folder)
        raise UserError(_nothing_done(converter, result))
    table = _overlaps(converter, result.converted)
    if not finished:
        _relabel_all(table, result.converted, folder, num_processes, progress)
    training = [record for record in result.converted if record.split != "test"]
    names = {record.identifier for record in training}
    together = [[case for case in group if case in names] for group in (*(each.cases for each in groups), *patients)]
    result = replace(result, splits=converter.splits(training, joined(together)))
    (folder / SPLITS_FILE).unlink(missing_ok=True)
    if result.splits:
        write_json(result.splits, folder / SPLITS_FILE)
    report = result.report(settings) | converter.report_entries(result.splits)
    write_json(report, folder / converter.report_file)
    # Last: it makes the dataset complete.
    content = converter.dataset_json(name, [record.identifier for record in training], table)
    if result.orientation is not None:
        content[ORIENTATION] = result.orientation
    write_json(content, folder / "dataset.json")
    shutil.rmtree(folder / WORK)
    return result


def _nothing_done(converter: DatasetConverter, result: ConversionResult) -> str:
    reasons = [f"{record.identifier}: {record.findings[-1].message}" for record in result.failed]
    if not converter.all_or_nothing:
        return (
            f"Expected at least one good case of {converter.name}, but none could be converted; the first reason: "
            f"{result.failed[0].findings[-1].message}"
        )
    for reason in reasons[1:]:
        _logger.error("%s", reason)
    others = f" ({len(reasons) - 1} more bad cases are listed above)" if reasons[1:] else ""
    return f"{reasons[0]}{others} Nothing was written."


# State -------------------------------------------------------------------------------------------------------------


def _records(folder: Path, settings: dict[str, Any], report_file: str) -> dict[str, CaseRecord]:
    """The records of an earlier conversion with the same settings; there is nothing else in the folder."""
    work, report = folder / WORK, folder / report_file
    records: dict[str, CaseRecord] = {}
    clear_leftovers(folder, inside=True)
    if any(not path.is_dir() for path in folder.rglob("*")):
        earlier = [file for file in (work / "settings.json", report) if file.is_file()]
        contents = [read_json(file, mapping_of(anything)) for file in earlier]
        found = [content.get("settings", content) for content in contents]
        if settings not in found:
            raise UserError(f"{folder} exists and {_difference(settings, *found[:1])}; {_ADVICE}")
        if report.is_file():
            cases = read_json(report, entries({"cases": mapping_of(RECORD)}, needed=("cases",)))["cases"]
            records = {case["identifier"]: CaseRecord.from_json(case) for case in cases.values()}
        for file in work.glob("*.json") if work.is_dir() else ():
            if file.name != "settings.json":
                record = CaseRecord.from_json(read_json(file, RECORD))
                records[record.identifier] = record
    return records


def _difference(settings: dict[str, Any], found: dict[str, Any] | None = None) -> str:
    if found is None:
        return "was not made by this command"
    if "labels" not in found:
        return "was begun by an earlier version, which did not note what the integers of its label maps mean"
    differing = [name for name in settings if found.get(name) != settings[name]]
    return f"comes from another source or other options ({', '.join(differing)})"


def _trusted(
    known: dict[str, CaseRecord], cases: Sequence[Case], converter: DatasetConverter, folder: Path
) -> dict[str, CaseRecord]:
    """Records of complete cases whose sources are as they were; the files of others are removed."""
    names = {case.identifier for case in cases}
    trusted: dict[str, CaseRecord] = {}
    strange = [record.identifier for record in known.values() if not record.failed and record.identifier not in names]
    if strange:
        raise UserError(
            f"Expected cases of {converter.name} in {folder}, but {quoted(strange[0])} is none, or has another name by "
            f"now; {_ADVICE}"
        )
    finished = (folder / "dataset.json").exists()
    for case in cases:
        record = known.get(case.identifier)
        if record is not None and not record.failed and _is_good(record, case, converter, folder, finished):
            trusted[case.identifier] = record
    changed = [record for record in known.values() if not record.failed and record.identifier not in trusted]
    if changed:
        more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
        sentence = f"sources, options or files changed: {', '.join(record.identifier for record in changed[:5])}{more}"
        if converter.all_or_nothing and (folder / "dataset.json").exists():
            raise UserError(f"{folder} is complete, but {sentence}; {_ADVICE}")
        _logger.info("Converted anew, because %s", sentence)
    for file in (file for record in changed for file in record.files):
        (folder / file).unlink(missing_ok=True)
    if finished and len(trusted) < len(cases):
        # The integers of overlapping masks depend on all cases.
        return {name: record for name, record in trusted.items() if not record.overlaps}
    return trusted


def _is_good(record: CaseRecord, case: Case, converter: DatasetConverter, folder: Path, finished: bool) -> bool:
    """Whether a case is complete, made from its present files, and has no errors under the present options."""
    options = converter.options
    record.findings = [finding for finding in record.findings if finding.kind != "duplicate"]
    kinds = {finding.kind for finding in record.findings}
    levels = [severity(kind, strict=options.strict, accepted=options.accept) for kind in kinds]
    images, label = planned_files(case, converter)
    files = [folder / file for file in images]
    if label:
        waits = record.overlaps and not finished
        files.append(encoded_file(folder, case.identifier) if waits else folder / label)
    return (
        record.stamp == stamp_of(case)
        and ERROR not in levels
        and (options.resample_labels or "resampled" not in kinds)
        and not (options.copy_images and {HARD_LINK, SYMBOLIC_LINK} & set(record.placed))
        and all(file.is_file() for file in files)
    )


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
            for file in record.files if is_error else ():
                (folder / file).unlink(missing_ok=True)
    return [] if is_error else groups


def _overlaps(converter: DatasetConverter, records: Sequence[CaseRecord]) -> AtomTable | None:
    """Which integer every combination of masks has, now that all cases are known."""
    voxels: Counter[Combination] = Counter()
    for record in records:
        voxels.update(dict(record.combinations))
    return AtomTable(list(converter.order.labels), voxels) if voxels else None


def _relabel_all(
    table: AtomTable | None, records: Sequence[CaseRecord], folder: Path, num_processes: int, progress: bool
) -> None:
    jobs = [_Relabelling(folder, record, table) for record in records if record.overlaps and table is not None]
    for outcome in parallel_map(
        _relabel, jobs, processes=num_processes, description="Fixing overlaps", progress=progress
    ):
        if outcome.error:
            raise UserError(outcome.error)


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
