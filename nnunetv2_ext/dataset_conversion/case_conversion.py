"""One case from its source to its files in the nnU-Net dataset, in a worker process."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunetv2_ext.dataset_conversion import checks
from nnunetv2_ext.dataset_conversion.case_record import COPY, HARD_LINK, REWRITTEN, SYMBOLIC_LINK, CaseRecord
from nnunetv2_ext.dataset_conversion.converter import DatasetConverter
from nnunetv2_ext.dataset_conversion.duplicates import image_fingerprint
from nnunetv2_ext.dataset_conversion.findings import ERROR, BadCaseError, Finding, severity
from nnunetv2_ext.dataset_conversion.layout import Case
from nnunetv2_ext.images.geometry import AxisTurn, Grid
from nnunetv2_ext.images.label_maps import write_volume, written
from nnunetv2_ext.images.volumes import Array, Volume, compact, crop, oriented, resample_label, turned
from nnunetv2_ext.labels.atoms import EncodedMasks, encode_masks
from nnunetv2_ext.labels.label_order import as_integers
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.files import write_json

# State of an unfinished conversion, inside the dataset's folder.
WORK = ".conversion"


def planned_files(case: Case, converter: DatasetConverter) -> tuple[list[str], str | None]:
    """Image and label files of a case, relative to the dataset."""
    part, ending = "Ts" if case.split == "test" else "Tr", converter.file_ending
    files = 1 if converter.joins_channels else len(converter.channels())
    images = [f"images{part}/{case.identifier}_{channel:04d}{ending}" for channel in range(files)]
    has_label = case.label is not None or bool(case.masks)
    return images, f"labels{part}/{case.identifier}{ending}" if has_label else None


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
    # Noted before the files are read: what changes meanwhile is converted once more.
    record = CaseRecord.of(case)
    planned, planned_label = planned_files(case, converter)
    try:
        if problem:
            raise UserError(problem)
        if case.problem:
            raise BadCaseError("incomplete", case.problem)
        _Conversion(converter, case, folder, record).run(planned, planned_label)
    except UserError as error:
        record.fail(error)
        for file in (*planned, *([planned_label] if planned_label else [])):
            (folder / file).unlink(missing_ok=True)
    write_json(record.to_json(), folder / WORK / f"{case.identifier}.json")
    return record


def _place(image: Volume, target: Path, ending: str, copy: bool) -> str:
    """Puts an image into the dataset and says how.

    A hard link costs no space, outlives the source, and travels with rsync or tar as a file. A symbolic link takes its
    place between file systems and for files of another owner; where there are no links, or on request, it is a copy.
    """
    if image.file is None or image.mended or not image.file.name.endswith(ending):
        write_volume(image.with_array(compact(image.array)), target)
        return REWRITTEN
    source = image.file.resolve()
    target.parent.mkdir(exist_ok=True)
    for how, link in () if copy else ((HARD_LINK, os.link), (SYMBOLIC_LINK, os.symlink)):
        temporary = target.with_name(f".{target.name}.tmp")
        temporary.unlink(missing_ok=True)
        try:
            link(source, temporary)
        except OSError:
            continue
        os.replace(temporary, target)
        # Renaming one name of a file to another one of its names does nothing.
        temporary.unlink(missing_ok=True)
        return how
    with written(target) as file:
        shutil.copyfile(source, file)
    return COPY


def encoded_file(folder: Path, identifier: str) -> Path:
    """Where the masks of a case wait, encoded, until the overlaps of all cases are known."""
    return folder / WORK / "encoded" / f"{identifier}.nii.gz"


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
        if self.case.masks and not self.converter.masks_exclude:
            encoded = encode_masks(self._masks(first.grid))
            label = Volume(encoded.label_map, first.grid)
        elif self.case.masks:
            label = self._exclusive_masks(first.grid)
        elif planned_label:
            label = self._read_label(first)
        if self.case.crop:
            images = [crop(oriented(image, "LPS"), self.case.crop) for image in images]
            label = self._crop_label(label) if label is not None else None
        if label is not None:
            label = self._check_and_translate(label, encoded)
        if self.options.orientation and first.grid.orientation:
            turn = AxisTurn.to(self.options.orientation, images[0].grid)
            images = [turned(image, turn) for image in images]
            label = turned(label, turn) if label is not None else None
        self._refuse_errors()
        if self.converter.joins_channels:
            joined = np.stack([image.array for image in images], axis=-1)
            # NaN may have been replaced in floats.
            file = None if joined.dtype.kind == "f" else self.case.images[0]
            images = [Volume(joined, first.grid, file)]
        self.record.placed = [
            _place(image, self.folder / file, self.converter.file_ending, self.options.copy_images)
            for image, file in zip(images, planned_images, strict=True)
        ]
        if label is not None and planned_label:
            waits = self.record.overlaps
            target = encoded_file(self.folder, self.case.identifier) if waits else self.folder / planned_label
            write_volume(label, target)
        self.record.images, self.record.label = list(planned_images), planned_label
        self.record.shape = [int(size) for size in images[0].grid.shape]
        self.record.spacing = [round(value, 6) for value in reversed(images[0].grid.spacing)]
        self.record.orientation = images[0].grid.orientation or ""

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
            if image.grid.dimension != 3 and not self.converter.admits_2d:
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

    # Labels --------------------------------------------------------------------------------------------------------

    def _read_label(self, image: Volume) -> Volume:
        label = self.converter.read_label(self.case, image)
        array = as_integers(label.array)
        if array.min(initial=0) < 0 or array.max(initial=0) > np.iinfo(np.uint16).max:
            bad = min(int(array.min()), 0) or int(array.max())
            raise BadCaseError(
                "unknown_values", f"Expected integers from 0 to 65535 in the label map, but found {bad}."
            )
        label = self._on_grid(label.with_array(array.astype(np.uint16, copy=False)), image.grid, "the label map")
        return self._plausible(label, image)

    def _plausible(self, label: Volume, image: Volume) -> Volume:
        """The label map, turned front to back where its header is not to be trusted and only that makes sense."""
        if self.case.values is not None:
            # Merged datasets have no label order; this was looked at when they were converted.
            return label
        order = self.converter.order
        found = checks.implausible_class(label, image, order)
        if found and self.converter.entry.label_grids_are_wrong:
            in_lps = oriented(label, "LPS")
            flipped = resample_label(in_lps.with_array(in_lps.array[:, ::-1]), label.grid)
            if not checks.implausible_class(flipped, image, order):
                self._found("label_turned", f"Expected {found} as its header says; took the label map front to back.")
                return flipped
        if found:
            self._found("implausible", f"Expected {found}; image and label map do not belong together.")
        return label

    def _on_grid(self, label: Volume, grid: Grid, name: str) -> Volume:
        """The label map on the image's grid: as it is, placed or resampled."""
        difference = grid.difference(label.grid)
        if difference is None:
            return Volume(label.array, grid)
        if self.converter.entry.label_grids_are_wrong:
            in_lps, image_grid = oriented(label, "LPS"), oriented(Volume(_nothing(grid), grid), "LPS").grid
            if in_lps.grid.size == image_grid.size:
                self._once("label_placed", f"The header of {name} was replaced by the image's.")
                # Both grids have the same voxel centres, so this only puts the axes in the image's order.
                return resample_label(Volume(in_lps.array, image_grid), grid)
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
        masks = self.converter.read_masks(self.case, grid)
        for name in self.converter.order.labels:
            if name in absent:
                yield np.zeros(grid.shape, dtype=bool)
            else:
                mask = next(masks)
                yield self._on_grid(mask.with_array((mask.array != 0).astype(np.uint8)), grid, f"the mask {name}").array

    def _exclusive_masks(self, grid: Grid) -> Volume:
        label = np.zeros(grid.shape, dtype=np.uint16)
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
        cropped = crop(oriented(label, "LPS"), self.case.crop)
        before, after = np.count_nonzero(label.array), np.count_nonzero(cropped.array)
        if after < before / 2:
            self._found(
                "outside_crop", f"Expected the annotation inside the crop, but only {after} of {before} voxels are."
            )
        return cropped

    def _check_and_translate(self, label: Volume, encoded: EncodedMasks | None) -> Volume:
        """Checks values, emptiness and sides, counts voxels, and gives the integers of the nnU-Net dataset."""
        if encoded is not None:
            return self._check_encoded(label, encoded)
        values, target = self.converter.values(self.case), self.converter.target
        statistics = checks.label_statistics(label)
        checks.check_values(statistics, values, self.case.source or target.name)
        rewritten = {old: new for old, new in self.converter.rewritten_values().items() if old in statistics.voxels}
        if rewritten:
            self._found("values_rewritten", f"Took {', '.join(f'{old} as {new}' for old, new in rewritten.items())}.")
        statistics = statistics.translated({old: (new,) for old, new in values.items()})
        self.record.findings.extend(checks.check_label(statistics, target))
        self.record.voxels = {
            name: sum(statistics.voxels.get(value, 0) for value in {*np.atleast_1d(integers).tolist()})
            for name, integers in target.labels.items()
        }
        table = np.zeros(max(values) + 1, dtype=np.min_scalar_type(target.highest))
        table[list(values)] = list(values.values())
        return label.with_array(table[label.array])

    def _check_encoded(self, label: Volume, encoded: EncodedMasks) -> Volume:
        order = self.converter.order
        integers = [order.value(name) for name in order.labels]
        classes = {code: [integers[i] for i in indices] or [0] for code, indices in enumerate(encoded.combinations)}
        statistics = checks.label_statistics(label).translated(classes)
        self.record.voxels = {name: statistics.voxels.get(order.value(name), 0) for name in order.labels}
        self.record.findings.extend(checks.check_label(statistics, order))
        self.record.combinations = list(encoded.voxels().items())
        if self.record.overlaps:
            return label
        # Without overlaps the final integers are known already: class k alone is k + 1.
        table = np.array([0, *(combination[0] + 1 for combination in encoded.combinations[1:])], dtype=np.uint16)
        return label.with_array(table[label.array].astype(np.min_scalar_type(len(order.labels))))


def _nothing(grid: Grid) -> Array:
    """An array of the grid's shape that takes no memory."""
    return np.broadcast_to(np.uint8(0), grid.shape)
