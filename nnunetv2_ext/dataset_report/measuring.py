"""What the page of a dataset says of one case, measured in a worker process: numbers and a small picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from nnunetv2_ext.dataset_conversion.checks import (
    LabelStatistics,
    check_label,
    check_values,
    different_grids,
    label_statistics,
)
from nnunetv2_ext.dataset_conversion.duplicates import ImageFingerprint, image_fingerprint
from nnunetv2_ext.dataset_conversion.layout import Case
from nnunetv2_ext.dataset_report.cases import RawDataset
from nnunetv2_ext.images.preview import draw_thumbnail
from nnunetv2_ext.images.reading import read_volume, read_volumes
from nnunetv2_ext.images.volumes import Volume
from nnunetv2_ext.labels.dataset_json import HIGHEST_LABEL
from nnunetv2_ext.labels.label_order import as_integers
from nnunetv2_ext.utilities.errors import UserError

# Voxels from which duplicates are recognised; looking at all of them takes as long as decompressing them.
_VOXELS_OF_FINGERPRINT = 1 << 18


@dataclass(frozen=True)
class CaseMeasures:
    """What was found of one case.

    Attributes:
        case: Identifier.
        source: The source that it belongs to; empty where the dataset is no collection.
        is_test: Whether it is one of imagesTs.
        size: Voxels along x, y (and z).
        spacing: mm along x, y (and z).
        ranges: Lowest and highest intensity of each channel.
        volumes: Annotated class -> ml; empty without a label map.
        intensities: Class that occurs -> mean intensity of the first channel under it.
        findings: Left structures on the right, empty label maps; a sentence each.
        fingerprint: What the image is recognised by.
        picture: Three slices with the labels, as a JPEG file.
    """

    case: str
    source: str
    is_test: bool
    size: tuple[int, ...]
    spacing: tuple[float, ...]
    ranges: tuple[tuple[float, float], ...]
    volumes: Mapping[str, float]
    intensities: Mapping[str, float]
    findings: tuple[str, ...]
    fingerprint: ImageFingerprint
    picture: bytes

    @property
    def title(self) -> str:
        """Its name among training and test cases, which may have the same names."""
        return f"{self.case} (test)" if self.is_test else self.case


@dataclass(frozen=True)
class MeasuringJob:
    """One case of a dataset."""

    dataset: RawDataset
    case: Case

    def __str__(self) -> str:
        return f"case {self.case.own_name!r}"


def measure_case(job: MeasuringJob) -> CaseMeasures:
    """Reads a case and measures it; each of its voxels is looked at once.

    Raises:
        UserError: A file is missing or cannot be read, channels or label map lie on different grids, or the label map
            has values that no class explains.
    """
    dataset, case = job.dataset, job.case
    images = [volume for file in case.images for volume in read_volumes(file)]
    if len(images) != len(dataset.channels):
        raise UserError(f"Expected {len(dataset.channels)} channel(s), but found {len(images)}.")
    first = images[0]
    for image in images[1:]:
        if difference := first.grid.difference(image.grid):
            raise different_grids("the channels", difference)
    label = None if case.label is None else _read_label(job, first)
    findings: tuple[str, ...] = ()
    statistics = LabelStatistics({}, {})
    annotated = dataset.annotated(case.own_name)
    if label is not None:
        statistics = label_statistics(label, first)
        check_values(statistics, dataset.explained(case.own_name), str(dataset.folder / "dataset.json"))
        statistics = statistics.translated(_numbers_of_values(dataset, annotated, statistics))
        findings = tuple(finding.message for finding in check_label(statistics, dataset.target))
    numbers = {name: dataset.numbers[name] for name in annotated} if label is not None else {}
    return CaseMeasures(
        case.own_name,
        dataset.source_of.get(case.own_name, ""),
        case.split == "test",
        tuple(int(size) for size in first.grid.size),
        tuple(float(mm) for mm in first.grid.spacing),
        tuple((float(image.array.min()), float(image.array.max())) for image in images),
        {name: statistics.voxels.get(number, 0) * first.grid.voxel_volume_ml for name, number in numbers.items()},
        {name: statistics.intensities[number] for name, number in numbers.items() if number in statistics.intensities},
        findings,
        image_fingerprint([thinned(image.array) for image in images]),
        draw_thumbnail(None if label is None else label.array, first.array, dataset.names, first.grid),
    )


def thinned(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Every ``n``-th voxel along each axis of more than one voxel, the same ones whatever axes were flipped or swapped.

    Args:
        array: (z, y, x).
    """
    step = 1
    while array.size > _VOXELS_OF_FINGERPRINT * step ** sum(size > 1 for size in array.shape):
        step += 2
    # With an odd step one start lies as far from the first voxel as the last one taken from the last voxel.
    starts = [(size - 1) * (step + 1) // 2 % step for size in array.shape]
    return array[
        tuple(slice(min(start, size - 1), None, step) for start, size in zip(starts, array.shape, strict=True))
    ]


def _read_label(job: MeasuringJob, image: Volume) -> Volume:
    assert job.case.label is not None
    label = read_volume(job.case.label)
    if difference := image.grid.difference(label.grid):
        raise different_grids("the label map", difference)
    array = as_integers(label.array)
    lowest, highest = int(array.min()), int(array.max())
    if lowest < 0 or highest > HIGHEST_LABEL:
        odd = lowest if lowest < 0 else highest
        raise UserError(f"Expected label values from 0 to {HIGHEST_LABEL} in {job.case.label}, but found {odd}.")
    return label.with_array(array)


def _numbers_of_values(
    dataset: RawDataset, annotated: tuple[str, ...], statistics: LabelStatistics
) -> dict[int, list[int]]:
    """Label value that occurs -> numbers of the annotated classes that it belongs to; 0 is none of them."""
    found: dict[int, list[int]] = {value: [] for value in statistics.voxels}
    found[0] = [0]
    for name in annotated:
        for value in dataset.values[name]:
            found.setdefault(value, []).append(dataset.numbers[name])
    return found
