"""Which cases an input holds: nnU-Net's naming, any folder or file of images, or DICOM series."""

from __future__ import annotations

import csv
import logging
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from nnunetv2_ext.images.dicom import find_series, pseudonyms
from nnunetv2_ext.images.dicom_source import only_series
from nnunetv2_ext.images.files import IMAGE_ENDINGS, image_ending, opened
from nnunetv2_ext.images.reading import Case
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.files import input_files
from nnunetv2_ext.utilities.names import file_name, quoted, refuse_equal_names

_logger = logging.getLogger(__name__)

_CHANNEL_NUMBER = re.compile(r"(?P<identifier>.+)_(?P<channel>\d{4})")


def find_cases(source: Path | str, channels: int, file_ending: str, table: Path | None = None) -> list[Case]:
    """Lists the cases of an input, sorted by name.

    Args:
        source: A folder in nnU-Net's naming (``case_0000.nii.gz``), any other folder of images, one image file, a
            folder with DICOM series in it or anywhere below, or a CSV table with the columns id and path.
        channels: How many channels the model reads.
        file_ending: The ending of the model's own dataset.
        table: See `pseudonyms`, which the cases get as identifiers.

    Raises:
        UserError: The input does not exist or holds no images.
    """
    source = Path(source)
    if not source.exists():
        raise UserError(f"Expected images in {source}, but it does not exist.")
    if source.is_dir():
        cases = _cases_in(source, channels, file_ending)
    elif source.suffix.lower() == ".csv":
        cases = _cases_of_manifest(source)
    else:
        cases = [_case_of_file(source, channels, file_ending)]
    if table is None:
        return cases
    places = {case.identifier: case.files[0].parent if case.dicom else case.files[0] for case in cases}
    numbers = pseudonyms(places, table)
    return [replace(case, identifier=numbers[case.identifier]) for case in cases]


def _cases_in(source: Path, channels: int, file_ending: str) -> list[Case]:
    files = input_files(source)
    cases = _group_channels(files, channels, file_ending)
    if not cases:
        cases = [Case(series.name, series.files, dicom=True) for series in find_series(source)]
    if not cases:
        endings = ", ".join(dict.fromkeys([file_ending, *IMAGE_ENDINGS]))
        found = ", ".join(file.name for file in files[:5]) or "no files"
        raise UserError(f"Expected images ({endings}) or a DICOM series in {source}, but found {found}.")
    refuse_equal_names((case.identifier, case.files[0]) for case in cases)
    return cases


def _case_of_file(file: Path, channels: int, file_ending: str) -> Case:
    ending = image_ending(file, [file_ending])
    if ending is None:
        endings = ", ".join(dict.fromkeys([file_ending, *IMAGE_ENDINGS]))
        raise UserError(
            f"Expected an image that ends with one of {endings}, but got {file.name}; for DICOM give the folder."
        )
    cases = _group_channels(sorted({*input_files(file.parent), file}), channels, file_ending)
    return next(case for case in cases if file in case.files)


def _cases_of_manifest(table: Path) -> list[Case]:
    """The cases of a table with the columns id and path; several rows of one ID are its channels, in their order.

    Paths are relative to the table's folder; that of a folder is a DICOM series. Files that are missing are found out
    when their case is read, so that they do not stop the others.
    """
    files: dict[str, list[Path]] = {}
    with opened(table), open(table, newline="", encoding="utf-8-sig") as lines:
        rows = list(csv.DictReader(lines))
    if not rows or not {"id", "path"} <= set(rows[0]):
        raise UserError(
            f"Expected a table of cases with the columns id and path in {table}, but found "
            f"{', '.join(map(quoted, rows[0])) if rows else 'no rows'}."
        )
    for number, row in enumerate(rows, start=1):
        if not row["id"] or not row["path"] or file_name(row["id"]) != row["id"]:
            raise UserError(
                f"Expected an ID that can be the name of a file (letters, digits, '-', '_', '.' and '+') and a path in "
                f"row {number} of {table}, but found {quoted(row['id'])} and {quoted(row['path'])}."
            )
        files.setdefault(row["id"], []).append(table.parent / row["path"])
    return [_case_of_paths(identifier, paths) for identifier, paths in sorted(files.items())]


def _case_of_paths(identifier: str, paths: Sequence[Path]) -> Case:
    if len(paths) > 1 or not paths[0].is_dir():
        return Case(identifier, tuple(paths))
    return Case(identifier, only_series(paths[0]), dicom=True)


def _group_channels(files: Sequence[Path], channels: int, file_ending: str) -> list[Case]:
    """Joins ``x_0000``, ``x_0001``, ... to one case; an image that does not follow that naming is a case of its own.

    Other files are passed over. A number of four digits at the end is a channel only where the channel 0000 exists, so
    that ``patient_0012.nii.gz`` in a plain folder stays a patient; and for a model of one channel, only where there is
    no other number. A group with too few or too many of several channels stays together: it is refused when it is read,
    with its name, and does not stop the others.
    """
    groups: dict[tuple[str, str], dict[int, Path]] = {}
    names: dict[Path, str] = {}
    for image in files:
        ending = image_ending(image.name, [file_ending])
        if ending is None:
            continue
        names[image] = image.name[: -len(ending)]
        match = _CHANNEL_NUMBER.fullmatch(names[image])
        if match:
            groups.setdefault((match["identifier"], ending), {})[int(match["channel"])] = image
    cases = []
    grouped: set[Path] = set()
    for (identifier, _), members in groups.items():
        if 0 in members and (channels > 1 or len(members) == 1):
            cases.append(Case(identifier, tuple(members[channel] for channel in sorted(members))))
            grouped.update(members.values())
    cases += [Case(name, (image,)) for image, name in names.items() if image not in grouped]
    return sorted(cases, key=lambda case: case.identifier)
