"""One case from its source to its files in the nnU-Net dataset, in a worker process."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nnunetv2_ext.dataset_conversion import checks
from nnunetv2_ext.dataset_conversion.converter import DatasetConverter
from nnunetv2_ext.dataset_conversion.duplicates import ImageFingerprint, image_fingerprint
from nnunetv2_ext.dataset_conversion.findings import ERROR, KINDS, BadCaseError, Finding, severity
from nnunetv2_ext.dataset_conversion.layout import Case
from nnunetv2_ext.images.geometry import Grid
from nnunetv2_ext.images.label_maps import write_volume
from nnunetv2_ext.images.reading import read_volume
from nnunetv2_ext.images.volumes import Array, Volume, compact, crop, oriented_lps, resample_label
from nnunetv2_ext.labels.atoms import Combination, EncodedMasks, encode_masks
from nnunetv2_ext.labels.label_order import as_integers
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.files import write_json
from nnunetv2_ext.utilities.validation import (
    choice,
    either,
    entries,
    flag,
    integer,
    list_of,
    mapping_of,
    nullable,
    number,
    text,
)

# State of an unfinished conversion, inside the dataset's folder.
WORK = ".conversion"
FILE_ENDING = ".nii.gz"

_COUNT = integer(0)
_RECORD = {
    **dict.fromkeys(("identifier", "split"), text()),
    "fold": nullable(_COUNT),
    **dict.fromkeys(("sources", "images"), list_of(text())),
    **dict.fromkeys(("linked", "failed"), flag),
    "label": nullable(text()),
    "shape": list_of(_COUNT),
    "spacing": list_of(number()),
    "voxels": mapping_of(_COUNT),
    "combinations": list_of(list_of(either(list_of(_COUNT), _COUNT), 2, 2)),
    "fingerprint": nullable(
        entries(
            {"voxel_hash": text(), "shape": list_of(_COUNT), "statistics": list_of(number())},
            needed=("voxel_hash", "shape", "statistics"),
        )
    ),
    "findings": list_of(entries({"kind": choice(*KINDS), "message": text()}, needed=("kind", "message"), closed=True)),
}
#: What the record of a case must look like when it is read back.
RECORD = entries(_RECORD, needed=tuple(_RECORD), closed=True)


@dataclass
class CaseRecord:
    """What became of one case; the entry of the conversion report.

    Attributes:
        identifier: Name of the case.
        split: ``"train"``, ``"val"`` or ``"test"``.
        fold: Fold whose validation set it belongs to, where the source says so.
        sources: The files it was made from.
        images: Its image files, relative to the dataset.
        linked: Whether the images are links to the source.
        label: Its label file, relative to the dataset; None where it has none.
        shape: Voxels (z, y, x).
        spacing: mm (z, y, x).
        voxels: Class -> number of voxels.
        combinations: (indices of classes, voxels) for every combination of overlapping masks.
        fingerprint: What tells whether two cases show the same image.
        findings: Everything odd.
        failed: Whether it was not converted.
    """

    identifier: str
    split: str
    fold: int | None = None
    sources: list[str] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    linked: bool = False
    label: str | None = None
    shape: list[int] = field(default_factory=list)
    spacing: list[float] = field(default_factory=list)
    voxels: dict[str, int] = field(default_factory=dict)
    combinations: list[tuple[Combination, int]] = field(default_factory=list)
    fingerprint: ImageFingerprint | None = None
    findings: list[Finding] = field(default_factory=list)
    failed: bool = False

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> CaseRecord:
        """Reads what `to_json` wrote."""
        findings = [Finding(**entry) for entry in content.pop("findings")]
        combinations = [(tuple(indices), count) for indices, count in content.pop("combinations")]
        seen = content.pop("fingerprint")
        fingerprint = seen and ImageFingerprint(seen["voxel_hash"], tuple(seen["shape"]), tuple(seen["statistics"]))
        return cls(**content, findings=findings, combinations=combinations, fingerprint=fingerprint)

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary for JSON."""
        return asdict(self)

    @property
    def overlaps(self) -> bool:
        """Whether several classes share a voxel and the label map therefore depends on all cases."""
        return any(len(indices) > 1 for indices, _ in self.combinations)


def planned_files(case: Case, channels: int) -> tuple[list[str], str | None]:
    """Image and label files of a case, relative to the dataset."""
    part = "Ts" if case.split == "test" else "Tr"
    images = [f"images{part}/{case.identifier}_{channel:04d}{FILE_ENDING}" for channel in range(channels)]
    has_label = case.label is not None or bool(case.masks)
    return images, f"labels{part}/{case.identifier}{FILE_ENDING}" if has_label else None


def source_files(case: Case) -> list[str]:
    """What a case is made from, masks left out."""
    return [str(path) for path in (*case.images, *([case.label] if case.label else []))]


@dataclass(frozen=True)
class Job:
    """One case to convert, and where to."""

    converter: DatasetConverter
    case: Case
    folder: Path

    def __str__(self) -> str:
        return self.case.identifier


def convert_case(job: Job, problem: str = "") -> CaseRecord:
    """Converts one case and leaves a record of it in the dataset's work folder.

    A case that cannot be converted leaves no files, only its record.

    Args:
        job: The case, and where to.
        problem: Why an earlier try could not even do that; then only this is done.
    """
    converter, case, folder = job.converter, job.case, job.folder
    record = CaseRecord(case.identifier, case.split, case.fold)
    record.sources = source_files(case)
    planned, planned_label = planned_files(case, len(converter.channels()))
    try:
        if problem:
            raise UserError(problem)
        if case.problem:
            raise BadCaseError("incomplete", case.problem)
        _Conversion(converter, case, folder, record).run(planned, planned_label)
    except UserError as error:
        finding = error.finding if isinstance(error, BadCaseError) else Finding("unreadable", str(error))
        record.findings.append(finding)
        record.failed = True
    if record.failed:
        for file in (*planned, *([planned_label] if planned_label else [])):
            (folder / file).unlink(missing_ok=True)
    write_json(record.to_json(), folder / WORK / f"{case.identifier}.json")
    return record


def _linked(source: Path, target: Path) -> bool:
    """Links a file, atomically; False on file systems without symbolic links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    link = target.with_name(f".{target.name}.tmp")
    link.unlink(missing_ok=True)
    try:
        link.symlink_to(source)
    except OSError:
        return False
    os.replace(link, target)
    return True


def encoded_file(folder: Path, identifier: str) -> Path:
    """Where the masks of a case wait, encoded, until the overlaps of all cases are known."""
    return folder / WORK / "encoded" / f"{identifier}{FILE_ENDING}"


class _Conversion:
    def __init__(self, converter: DatasetConverter, case: Case, folder: Path, record: CaseRecord) -> None:
        self.converter, self.case, self.folder, self.record = converter, case, folder, record
        self.options = converter.options

    def run(self, planned_images: Sequence[str], planned_label: str | None) -> None:
        images = self._read_images()
        first = images[0]
        self.record.fingerprint = image_fingerprint([image.array for image in images])
        label: Volume | None = None
        encoded: EncodedMasks | None = None
        if self.case.masks and not self._masks_exclude:
            encoded = encode_masks(self._masks(first.grid))
            label = Volume(encoded.label_map, first.grid)
        elif self.case.masks:
            label = self._exclusive_masks(first.grid)
        elif planned_label:
            label = self._read_label(first)
        if self.case.crop:
            images = [crop(oriented_lps(image), self.case.crop) for image in images]
            label = self._crop_label(label) if label is not None else None
        if label is not None:
            label = self._check_and_translate(label, encoded)
        self._refuse_errors()
        for image, file in zip(images, planned_images, strict=True):
            self._write_image(image, self.folder / file)
        if label is not None and planned_label:
            waits = self.record.overlaps
            target = encoded_file(self.folder, self.case.identifier) if waits else self.folder / planned_label
            write_volume(label, target)
        self.record.images, self.record.label = list(planned_images), planned_label
        self.record.shape = [int(size) for size in images[0].array.shape]
        self.record.spacing = [round(value, 6) for value in reversed(images[0].grid.spacing)]

    @property
    def _masks_exclude(self) -> bool:
        chosen = self.options.overlaps
        return self.converter.entry.masks_exclude if chosen is None else chosen == "last"

    def _found(self, kind: str, message: str) -> None:
        self.record.findings.append(Finding(kind, message))

    def _refuse_errors(self) -> None:
        """Stops before anything is written where a finding is an error under the user's settings."""
        levels = {
            finding.kind: severity(finding.kind, strict=self.options.strict, accepted=self.options.accept)
            for finding in self.record.findings
        }
        for finding in self.record.findings:
            if levels[finding.kind] == ERROR:
                self.record.findings.remove(finding)
                raise BadCaseError(finding.kind, finding.message)

    # Images --------------------------------------------------------------------------------------------------------

    def _read_images(self) -> list[Volume]:
        images = self.converter.read_image(self.case)
        expected = self.converter.channels()
        if len(images) != len(expected):
            raise BadCaseError(
                "unreadable", f"Expected {len(expected)} channel(s) ({', '.join(expected)}), but found {len(images)}."
            )
        for image, channel in zip(images, expected, strict=True):
            if image.grid.dimension != 3:
                raise BadCaseError("unreadable", f"Expected three axes in the channel {channel}, but it has two.")
            difference = images[0].grid.difference(image.grid)
            if difference:
                raise checks.different_grids(f"the channel {channel}", difference)
            if image.mended:
                self._found("axes_mended", f"Expected axes at right angles, but {image.mended}.")
            self.record.findings.extend(checks.check_image(image, f"the channel {channel}"))
        if any(finding.kind == "not_a_number" for finding in self.record.findings):
            self._refuse_errors()
            images = [
                image.with_array(checks.replace_non_finite(image.array)) if image.array.dtype.kind == "f" else image
                for image in images
            ]
        return images

    def _write_image(self, image: Volume, target: Path) -> None:
        source = image.file
        as_it_is = source and source.name.endswith(FILE_ENDING) and not image.mended and not self.options.copy_images
        if source and as_it_is and _linked(source.resolve(), target):
            self.record.linked = True
        else:
            write_volume(Volume(compact(image.array), image.grid), target)

    # Labels --------------------------------------------------------------------------------------------------------

    def _read_label(self, image: Volume) -> Volume:
        label = self.converter.read_label(self.case, image)
        array = as_integers(label.array)
        if array.min(initial=0) < 0 or array.max(initial=0) > np.iinfo(np.uint16).max:
            bad = min(int(array.min()), 0) or int(array.max())
            raise BadCaseError(
                "unknown_values", f"Expected integers from 0 to 65535 in the label map, but found {bad}."
            )
        return self._on_grid(label.with_array(array.astype(np.uint16, copy=False)), image.grid, "the label map")

    def _on_grid(self, label: Volume, grid: Grid, name: str) -> Volume:
        """The label map on the image's grid: as it is, placed or resampled."""
        difference = grid.difference(label.grid)
        if difference is None:
            return Volume(label.array, grid)
        if self.converter.entry.label_grids_are_wrong:
            oriented, image_grid = oriented_lps(label), oriented_lps(Volume(_nothing(grid), grid)).grid
            if oriented.grid.size == image_grid.size:
                self._once("label_placed", f"The header of {name} was replaced by the image's.")
                # Both grids have the same voxel centres, so this only puts the axes in the image's order.
                return resample_label(Volume(oriented.array, image_grid), grid)
        if self.options.resample_labels:
            self._once("resampled", f"{name[0].upper()}{name[1:]} and the image had {difference}.")
            return resample_label(label, grid)
        raise checks.different_grids(name, difference)

    def _once(self, kind: str, message: str) -> None:
        if all(finding.kind != kind for finding in self.record.findings):
            self._found(kind, message)

    def _masks(self, grid: Grid) -> Iterator[Array]:
        """The mask of every class of the order, one at a time."""
        absent = [name for name in self.converter.order.labels if name not in self.case.masks]
        if absent:
            shown = ", ".join(absent[:5]) + (f" and {len(absent) - 5} more" if len(absent) > 5 else "")
            self._found("missing_masks", f"Expected a mask of every class, but {shown} have none.")
            self._refuse_errors()
        for name in self.converter.order.labels:
            path = self.case.masks.get(name)
            if path is None:
                yield np.zeros(grid.size[::-1], dtype=bool)
            else:
                mask = read_volume(path)
                yield self._on_grid(mask.with_array((mask.array != 0).astype(np.uint8)), grid, f"the mask {name}").array

    def _exclusive_masks(self, grid: Grid) -> Volume:
        label = np.zeros(grid.size[::-1], dtype=np.uint16)
        shared = 0
        names = list(self.converter.order.labels)
        for name, mask in zip(names, self._masks(grid), strict=True):
            inside = mask != 0
            shared += int(np.count_nonzero(label[inside]))
            label[inside] = self.converter.order.value(name)
        if shared:
            self._found("overlapping_masks", f"Expected one class per voxel, but masks overlap in {shared} voxels.")
        return Volume(label, grid)

    def _crop_label(self, label: Volume) -> Volume:
        assert self.case.crop is not None
        cropped = crop(oriented_lps(label), self.case.crop)
        before, after = np.count_nonzero(label.array), np.count_nonzero(cropped.array)
        if after < before / 2:
            self._found(
                "outside_crop", f"Expected the annotation inside the crop, but only {after} of {before} voxels are."
            )
        return cropped

    def _check_and_translate(self, label: Volume, encoded: EncodedMasks | None) -> Volume:
        """Checks values, emptiness and sides, counts voxels, and gives the integers of the nnU-Net dataset."""
        order = self.converter.order
        if encoded is not None:
            return self._check_encoded(label, encoded)
        statistics = checks.label_statistics(label)
        rewritten = {
            value: new for value, new in self.converter.rewritten_values().items() if value in statistics.voxels
        }
        if rewritten:
            table = np.arange(max(statistics.voxels) + 1, dtype=np.uint16)
            for value, new in rewritten.items():
                table[value] = new
            label = label.with_array(table[label.array])
            listed = ", ".join(f"{old} as {new}" for old, new in rewritten.items())
            self._found("values_rewritten", f"Took {listed}.")
            statistics = checks.label_statistics(label)
        checks.check_values(statistics, order)
        self.record.findings.extend(checks.check_label(statistics, order))
        self.record.voxels = {
            name: sum(
                statistics.voxels.get(value, 0) for value in ([integers] if isinstance(integers, int) else integers)
            )
            for name, integers in order.labels.items()
        }
        return label.with_array(order.remap(label.array, to=self.converter.target_order))

    def _check_encoded(self, label: Volume, encoded: EncodedMasks) -> Volume:
        by_code = checks.label_statistics(label)
        order = self.converter.order
        voxels, left = {0: by_code.voxels.get(0, 0)}, {}
        for index, name in enumerate(order.labels):
            codes = [code for code, combination in enumerate(encoded.combinations) if index in combination]
            count = sum(by_code.voxels.get(code, 0) for code in codes)
            self.record.voxels[name] = count
            if count:
                value = order.value(name)
                voxels[value] = count
                left[value] = sum(by_code.voxels[code] * by_code.left[code] for code in codes if code in by_code.left)
                left[value] /= count
        self.record.findings.extend(checks.check_label(checks.LabelStatistics(voxels, left), order))
        self.record.combinations = list(encoded.voxels().items())
        if self.record.overlaps:
            return label
        # Without overlaps the final integers are known already: class k alone is k + 1.
        table = np.array([0, *(combination[0] + 1 for combination in encoded.combinations[1:])], dtype=np.uint16)
        return label.with_array(table[label.array].astype(np.min_scalar_type(len(order.labels))))


def _nothing(grid: Grid) -> Array:
    """An array of the grid's shape that takes no memory."""
    return np.broadcast_to(np.uint8(0), grid.size[::-1])
