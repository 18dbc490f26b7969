"""Which cases an input holds: nnU-Net's naming, any folder or file of images, or DICOM series."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from nnunetv2_ext.images.dicom import find_series, pseudonyms
from nnunetv2_ext.images.files import IMAGE_ENDINGS, image_ending
from nnunetv2_ext.images.reading import Case
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.files import input_files
from nnunetv2_ext.utilities.names import refuse_equal_names

_logger = logging.getLogger(__name__)

_CHANNEL_NUMBER = re.compile(r"(?P<identifier>.+)_(?P<channel>\d{4})")


def find_cases(source: Path | str, channels: int, file_ending: str, table: Path | None = None) -> list[Case]:
    """Lists the cases of an input, sorted by name.

    Args:
        source: A folder in nnU-Net's naming (``case_0000.nii.gz``), any other folder of images, one image file, a
            folder with DICOM series in it or anywhere below.
        channels: How many channels the model reads.
        file_ending: The ending of the model's own dataset.
        table: See `pseudonyms`, which the cases get as identifiers.

    Raises:
        UserError: The input does not exist or holds no images.
    """
    source = Path(source)
    if not source.exists():
        raise UserError(f"Expected images in {source}, but it does not exist.")
    cases = (
        [_case_of_file(source, channels, file_ending)] if source.is_file() else _cases_in(source, channels, file_ending)
    )
    if table is None:
        return cases
    places = {case.identifier: case.files[0].parent if case.dicom else case.files[0] for case in cases}
    numbers = pseudonyms(places, table)
    return [replace(case, identifier=numbers[case.identifier]) for case in cases]


def _cases_in(source: Path, channels: int, file_ending: str) -> list[Case]:
    files = input_files(source)
    images = [file for file in files if image_ending(file, [file_ending])]
    cases = _group_channels(images, channels, file_ending) if images else []
    if not images:
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
    siblings = [other for other in sorted(file.parent.iterdir()) if image_ending(other, [file_ending])]
    of_file = [case for case in _group_channels(siblings, channels, file_ending) if file in case.files]
    return of_file[0]


def _group_channels(images: Sequence[Path], channels: int, file_ending: str) -> list[Case]:
    """Joins ``x_0000``, ``x_0001``, ... to one case; what does not follow that naming is a case of its own.

    A number of four digits at the end is a channel only where the channel 0000 exists, so that ``patient_0012.nii.gz``
    in a plain folder stays a patient; and for a model of one channel, only where there is no other number. A group with
    too few or too many of several channels stays together: it is refused when it is read, with its name, and does not
    stop the others.
    """
    groups: dict[tuple[str, str], dict[int, Path]] = {}
    names: dict[Path, str] = {}
    for image in images:
        ending = image_ending(image, [file_ending]) or ""
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
    cases += [Case(names[image], (image,)) for image in images if image not in grouped]
    return sorted(cases, key=lambda case: case.identifier)
