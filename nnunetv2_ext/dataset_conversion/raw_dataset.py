"""The one writer of nnU-Net raw datasets.

Cases are converted one by one in worker processes. Each leaves a record when, and only when, its files are complete, so
an interrupted conversion goes on where it stopped. When all cases are through, the label values of overlapping masks
are fixed, duplicates are looked for, and dataset.json, splits and the conversion report are written.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunetv2_ext import __version__
from nnunetv2_ext.dataset_conversion.case_conversion import (
    FILE_ENDING,
    WORK,
    CaseRecord,
    convert_case,
    encoded_file,
    planned_files,
)
from nnunetv2_ext.dataset_conversion.converter import DatasetConverter
from nnunetv2_ext.dataset_conversion.findings import ERROR, Finding, severity
from nnunetv2_ext.dataset_conversion.layout import Case
from nnunetv2_ext.labels.atoms import AtomTable, Combination, EncodedMasks
from nnunetv2_ext.labels.label_order import BACKGROUND, LabelOrder
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.files import read_json, write_json

_logger = logging.getLogger(__name__)

REPORT = "conversion_report.json"
_FOLDERS = ("imagesTr", "labelsTr", "imagesTs", "labelsTs")
_FOLDS = 5


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
    num_processes: int = 1,
    overwrite: bool = False,
    progress: bool = True,
) -> ConversionResult:
    """Converts a dataset, or goes on with an interrupted conversion.

    Args:
        converter: Knows the source.
        folder: ``<nnUNet_raw>/DatasetXXX_Name``.
        num_processes: Cases converted at the same time; memory is that of so many cases.
        overwrite: Delete what is in ``folder``.
        progress: Show a progress bar.

    Raises:
        UserError: The source does not have the expected layout, ``folder`` holds something else, or no case could be
            converted.
    """
    cases = converter.cases()
    _check_identifiers(cases, converter.name)
    settings = _settings(converter)
    known = _open(folder, settings, overwrite)
    complete = _trusted(known, cases, converter, folder)
    waiting = [case for case in cases if case.identifier not in complete]
    if complete:
        _logger.info("Going on with %s: %d of %d cases are complete.", folder.name, len(complete), len(cases))
    records = dict(complete)
    for record in _in_processes(
        convert_case, [(converter, case, folder) for case in waiting], num_processes, "Converting", progress
    ):
        records[record.identifier] = record
    ordered = [records[case.identifier] for case in cases]
    _find_duplicates(ordered, converter, folder)
    result = ConversionResult(folder, tuple(ordered))
    if not any(record.split != "test" for record in result.converted):
        reasons = result.failed[0].findings[-1].message if result.failed else "the source has no training cases"
        raise UserError(
            f"Expected at least one training case of {converter.name}, but none could be converted; the first reason: "
            f"{reasons}"
        )
    table = _fix_overlaps(converter, result.converted, folder, num_processes, progress)
    _write_descriptions(converter, result, settings, table)
    shutil.rmtree(folder / WORK)
    return result


def dataset_json(
    converter: DatasetConverter, name: str, num_training: int, table: AtomTable | None = None
) -> dict[str, Any]:
    """The content of dataset.json.

    Args:
        converter: Knows classes, licence and citation.
        name: Folder name of the dataset.
        num_training: Number of training cases.
        table: Label values of overlapping masks, where there are any.
    """
    order = converter.order.consecutive()
    content: dict[str, Any] = {
        "channel_names": {str(index): channel for index, channel in enumerate(converter.channels())},
        "labels": order.nnunet_labels(),
        "numTraining": num_training,
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
    return content | converter.metadata()


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


def _open(folder: Path, settings: dict[str, Any], overwrite: bool) -> dict[str, CaseRecord]:
    """Makes the folder ready and returns the records of an earlier conversion with the same settings."""
    if overwrite and folder.exists():
        shutil.rmtree(folder)
    same_id = [
        other.name
        for other in (folder.parent.glob(f"{folder.name[:10]}_*") if folder.parent.is_dir() else ())
        if other != folder
    ]
    if same_id:
        raise UserError(f"Expected a free dataset ID, but {same_id[0]} uses it in {folder.parent}; choose another.")
    work, report = folder / WORK, folder / REPORT
    records: dict[str, CaseRecord] = {}
    if folder.exists() and any(folder.iterdir()):
        earlier = [file for file in (work / "settings.json", report) if file.is_file()]
        contents = [read_json(file) for file in earlier]
        found = [content.get("settings", content) for content in contents]
        if settings not in found:
            what = "comes from another source or other options" if found else "was not made by this command"
            raise UserError(f"{folder} exists and {what}; choose another dataset ID or pass --overwrite.")
        if report.is_file():
            entries = read_json(report)["cases"].values()
            records = {entry["identifier"]: CaseRecord.from_json(dict(entry)) for entry in entries}
        for file in work.glob("*.json") if work.is_dir() else ():
            if file.name != "settings.json":
                record = CaseRecord.from_json(read_json(file))
                records[record.identifier] = record
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for name in _FOLDERS:
        for leftover in (folder / name).glob(".*.tmp*"):
            leftover.unlink()
    write_json(settings, work / "settings.json")
    return records


def _trusted(
    known: dict[str, CaseRecord], cases: Iterable[Case], converter: DatasetConverter, folder: Path
) -> dict[str, CaseRecord]:
    """Records of complete cases, whose findings are no errors under the present settings."""
    options = converter.options
    trusted: dict[str, CaseRecord] = {}
    for case in cases:
        record = known.get(case.identifier)
        if record is None or record.failed:
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


def _check_identifiers(cases: Sequence[Case], name: str) -> None:
    repeated = [identifier for identifier, count in Counter(case.identifier for case in cases).items() if count > 1]
    if repeated:
        raise UserError(f"Expected one case of each name in {name}, but {', '.join(repeated[:5])} occur(s) repeatedly.")


# Running -----------------------------------------------------------------------------------------------------------


def _in_processes(
    work: Callable[..., Any], jobs: Sequence[tuple[Any, ...]], num_processes: int, title: str, progress: bool
) -> Iterator[Any]:
    """Yields the results of ``work(*job)`` as they come; in this process where one is enough."""
    from tqdm import tqdm

    with tqdm(total=len(jobs), desc=title, unit="case", disable=not progress) as bar:
        if num_processes <= 1 or len(jobs) <= 1:
            for job in jobs:
                yield work(*job)
                bar.update()
            return
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(num_processes, mp_context=context, initializer=_limit_threads) as pool:
            remaining = iter(jobs)
            running: set[Future[Any]] = set()
            try:
                while True:
                    # Few jobs at a time: results of thousands of cases never pile up, and Ctrl-C takes effect at once.
                    for job in remaining:
                        running.add(pool.submit(work, *job))
                        if len(running) >= 2 * num_processes:
                            break
                    if not running:
                        return
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    for future in done:
                        yield future.result()
                        bar.update()
            except BrokenProcessPool:
                raise UserError(
                    "A worker process was killed, probably for want of memory; run the same command again with a "
                    "smaller -np, complete cases are kept."
                ) from None
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def _limit_threads() -> None:
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)


# After all cases ---------------------------------------------------------------------------------------------------


def _find_duplicates(records: Sequence[CaseRecord], converter: DatasetConverter, folder: Path) -> None:
    """Adds a finding to every case whose image an earlier case has; with ``--strict`` such a case is taken out."""
    options = converter.options
    is_error = severity("duplicate", strict=options.strict, accepted=options.accept) == ERROR
    first: dict[str, CaseRecord] = {}
    for record in records:
        if record.failed:
            continue
        other = first.setdefault(record.fingerprint, record)
        if other is record:
            continue
        message = f"Expected every image once, but {other.identifier} ({other.split}) has the same."
        record.findings.append(Finding("duplicate", message))
        if is_error:
            record.failed = True
            for file in (*record.images, *([record.label] if record.label else [])):
                (folder / file).unlink(missing_ok=True)


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
    jobs = [(folder, record, table) for record in records if record.overlaps]
    for _ in _in_processes(_relabel, jobs, num_processes, "Fixing overlaps", progress):
        pass
    return table


def _relabel(folder: Path, record: CaseRecord, table: AtomTable) -> None:
    from nnunetv2_ext.dataset_conversion.volumes import read_volume, write_volume

    volume = read_volume(encoded_file(folder, record.identifier))
    combinations = ((), *(combination for combination, _ in record.combinations))
    encoded = EncodedMasks(volume.array, combinations, (0, *(count for _, count in record.combinations)))
    assert record.label is not None
    write_volume(volume.with_array(table.relabel(encoded)), folder / record.label)


def _write_descriptions(
    converter: DatasetConverter, result: ConversionResult, settings: dict[str, Any], table: AtomTable | None
) -> None:
    folder = result.folder
    training = [record for record in result.converted if record.split != "test"]
    splits = _splits(training)
    if splits:
        write_json(splits, folder / "splits_final.json")
        _offer_splits(splits, folder)
    write_json(_report(result, settings), folder / REPORT)
    # Last, because nnU-Net takes a folder with a dataset.json for complete.
    write_json(dataset_json(converter, folder.name, len(training), table), folder / "dataset.json")


def _splits(training: Sequence[CaseRecord]) -> list[dict[str, list[str]]]:
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
    elif any(finding.kind == "duplicate" for record in training for finding in record.findings):
        groups: dict[str, list[str]] = defaultdict(list)
        for record in training:
            groups[record.fingerprint].append(record.identifier)
        ordered = sorted(groups.values())
        if len(ordered) >= _FOLDS:
            validation = [{name for group in ordered[fold::_FOLDS] for name in group} for fold in range(_FOLDS)]
    return [
        {"train": [name for name in names if name not in held_out], "val": sorted(held_out)} for held_out in validation
    ]


def _offer_splits(splits: list[dict[str, list[str]]], folder: Path) -> None:
    """Puts the splits where nnU-Net's trainer looks for them, unless there are some already."""
    preprocessed = os.environ.get("nnUNet_preprocessed", "").strip()
    target = Path(preprocessed) / folder.name / "splits_final.json"
    if preprocessed and not target.exists():
        write_json(splits, target)
        _logger.info("The splits of the source are in %s.", target)


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
