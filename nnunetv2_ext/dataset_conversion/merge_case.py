"""One case of a merge: check it, put its image in place, write its label map with the merged values."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnunetv2_ext.dataset_conversion.duplicates import ImageFingerprint, image_fingerprint
from nnunetv2_ext.dataset_conversion.merge_inputs import InputCase
from nnunetv2_ext.images.label_maps import write_volume, written
from nnunetv2_ext.images.reading import read_volume
from nnunetv2_ext.images.volumes import Volume, compact
from nnunetv2_ext.labels.label_order import as_integers
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.label_counts import count_label_values

HARD_LINK, SYMBOLIC_LINK, COPY, REWRITTEN = "hard link", "symbolic link", "copy", "rewritten"


@dataclass(frozen=True)
class MergeJob:
    """What a worker process needs to know about one case.

    Attributes:
        case: The case.
        value_table: Label value -> merged value, of all values that the case's source explains.
        folder: The dataset under construction, with ``imagesTr`` and ``labelsTr``.
        file_ending: Of the merged dataset.
        copy: Copy images instead of linking them.
        highest_value: Of all merged values; decides the integer type of the label map.
    """

    case: InputCase
    value_table: Mapping[int, int]
    folder: Path
    file_ending: str
    copy: bool
    highest_value: int

    def __str__(self) -> str:
        return f"case {self.case.own_name!r} of {self.case.source}"


@dataclass(frozen=True)
class MergedCase:
    """What came out of one case.

    Attributes:
        fingerprint: Of its image.
        voxels: Merged label value -> number of voxels, background left out.
        placed: How each image file got there: one of the four constants of this module.
    """

    fingerprint: ImageFingerprint
    voxels: dict[int, int]
    placed: tuple[str, ...]


def merge_case(job: MergeJob) -> MergedCase:
    """Reads, checks and writes one case.

    Raises:
        UserError: A file cannot be read, image and label map do not lie on one grid, or a label value is unknown.
    """
    case = job.case
    images = [read_volume(file) for file in case.images]
    label = read_volume(case.label)
    for file, volume in zip((*case.images[1:], case.label), (*images[1:], label), strict=True):
        # Origin and direction are left to nnU-Net's verify_dataset_integrity, which warns about them.
        difference = images[0].grid.difference(volume.grid, rounding=1e-5, positions=False)
        if difference:
            raise UserError(
                f"Case {case.own_name!r} of {case.source}: expected {file} on the grid of its image, but they have "
                f"{difference}; resample it, correct its header or remove the case."
            )
    fingerprint = image_fingerprint([image.array for image in images])
    label_map, voxels = _translate(label.array, job)
    write_volume(label.with_array(label_map), job.folder / "labelsTr" / f"{case.name}{job.file_ending}")
    placed = tuple(
        _place(image, file, job.folder / "imagesTr" / f"{case.name}_{channel:04d}", job)
        for channel, (file, image) in enumerate(zip(case.images, images, strict=True))
    )
    return MergedCase(fingerprint, voxels, placed)


def _translate(
    label_map: npt.NDArray[Any], job: MergeJob
) -> tuple[npt.NDArray[np.unsignedinteger[Any]], dict[int, int]]:
    """The label map with merged values, and how many voxels each of them has."""
    number_of_values = max(job.value_table) + 1
    try:
        label_map = as_integers(label_map)
    except UserError as error:
        raise UserError(f"Case {job.case.own_name!r} of {job.case.source}, {job.case.label}: {error}") from None
    inside = (label_map >= 0) & (label_map < number_of_values)
    strange = {int(value) for value in np.unique(label_map[~inside])}
    if not strange:
        counts = count_label_values(label_map, number_of_values)
        strange = {int(value) for value in np.flatnonzero(counts)} - set(job.value_table)
    if strange:
        found = ", ".join(map(str, sorted(strange)[:10]))
        raise UserError(
            f"Case {job.case.own_name!r} of {job.case.source}: no class of this source explains the label value(s) "
            f"{found} in {job.case.label} (known: {', '.join(map(str, sorted(job.value_table)))}); add the class to "
            "the dataset.json or mend the label map."
        )
    table = np.zeros(number_of_values, dtype=np.uint8 if job.highest_value < 256 else np.uint16)
    table[list(job.value_table)] = list(job.value_table.values())
    voxels: dict[int, int] = {}
    for value in np.flatnonzero(counts):
        merged = int(table[value])
        if merged:
            voxels[merged] = voxels.get(merged, 0) + int(counts[value])
    return table[label_map], voxels


def _place(image: Volume, file: Path, stem: Path, job: MergeJob) -> str:
    """Puts an image file in the merged dataset and says how.

    A hard link costs no space, survives the removal of the source dataset, and travels with rsync or tar as a file. A
    symbolic link is the fallback between file systems and for files of another owner.
    """
    target = stem.with_name(stem.name + job.file_ending)
    if image.file is None or not file.name.endswith(job.file_ending):
        write_volume(image.with_array(compact(image.array)), target)
        return REWRITTEN
    if job.copy:
        with written(target) as temporary:
            shutil.copyfile(file, temporary)
        return COPY
    try:
        os.link(file.resolve(), target)
    except OSError:
        target.symlink_to(file.resolve())
        return SYMBOLIC_LINK
    return HARD_LINK
