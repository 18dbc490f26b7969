"""Pairs reference label maps with predictions, and scores one pair."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnunetv2_ext.evaluation.classes import References, explained_by, find_name, match_classes, read_prediction_order
from nnunetv2_ext.evaluation.metrics import ScoredClass, evaluate_label_map
from nnunetv2_ext.images.files import label_maps_among
from nnunetv2_ext.images.geometry import Grid
from nnunetv2_ext.images.preview import draw_label_maps
from nnunetv2_ext.images.reading import read_volume, read_volumes
from nnunetv2_ext.images.volumes import Volume
from nnunetv2_ext.labels.atoms import encode_masks
from nnunetv2_ext.labels.label_order import as_integers
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.files import input_files
from nnunetv2_ext.utilities.names import file_name

_Integers = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class EvaluationJob:
    """One case to be scored.

    Attributes:
        case: Identifier.
        source: The source that it belongs to; empty where the references are no collection.
        reference: Label map.
        prediction: Label map; or the folder of one mask per class.
        classes: What is scored.
        masks: Class name -> mask file, where the prediction is a folder of masks.
        missing: Classes without a mask there, although the case annotates them.
        ignore_label: Value in the reference that counts for nothing.
        explained: Every value that may occur in the reference.
        explained_prediction: The same for the prediction.
    """

    case: str
    source: str
    reference: Path
    prediction: Path
    classes: tuple[ScoredClass, ...]
    masks: Mapping[str, Path]
    missing: tuple[str, ...]
    ignore_label: int | None
    explained: frozenset[int]
    explained_prediction: frozenset[int]

    def __str__(self) -> str:
        return f"case {self.case!r}"


def label_map_files(folder: Path) -> dict[str, Path]:
    """Case -> label map, of the files directly in a folder.

    Raises:
        UserError: The folder does not exist.
    """
    if not folder.is_dir():
        raise UserError(f"Expected a folder of label maps, but {folder} is none.")
    # Hidden files are those that a running prediction is still writing.
    return label_maps_among(input_files(folder), folder)


class PredictionFolder:
    """Predictions in any of the forms that ``nnUNetv2_predict`` and ``nnUNetv2_ext_predict`` write.

    One label map per case; one per case in a folder per source; or a folder per case with one mask per class.

    Args:
        folder: The predictions.
        references: What is to be scored.
        order: Name of the label order of the label maps; by default what the folder says.
        cases: Names of all references.
    """

    def __init__(
        self, folder: Path, references: References, order: str | None = None, cases: Collection[str] = ()
    ) -> None:
        self.folder = folder
        self._references = references
        self._order = order
        self._cases = cases
        self._files = {folder: label_map_files(folder)}
        self._classes: dict[Path, tuple[tuple[ScoredClass, ...], frozenset[int]]] = {}

    def has(self, case: str) -> bool:
        """Whether there is anything predicted for a case."""
        source = self._source_of(case)
        return self._is_there(self._name_of(case, source), source)

    def _source_of(self, case: str) -> str:
        return self._references.partial_labels.source_of(case) if self._references.partial_labels else ""

    def _name_of(self, case: str, source: str) -> str:
        """The case's name among the predictions: nnU-Net takes the end of an image ``x_0000`` for a channel."""
        other = case.removesuffix("_0000") if case.endswith("_0000") else f"{case}_0000"
        stands_for_it = other not in self._cases and not self._is_there(case, source) and self._is_there(other, source)
        return other if stands_for_it else case

    def _is_there(self, name: str, source: str) -> bool:
        folders = [self.folder, self.folder / file_name(source)] if source else [self.folder]
        return (self.folder / name).is_dir() or any(name in self._label_maps(folder) for folder in folders)

    def job(self, case: str, reference: Path) -> EvaluationJob:
        """What to do for a case.

        Raises:
            UserError: There is no prediction, or none of a class that the case annotates.
        """
        partial_labels = self._references.partial_labels
        source = self._source_of(case)
        name = self._name_of(case, source)
        found: dict[str, Path | None] = {}
        explained = frozenset[int]()
        folder = self.folder
        if source and name not in self._label_maps(folder):
            folder = folder / file_name(source)
        if name in self._label_maps(folder):
            prediction = self._label_maps(folder)[name]
            classes, explained = self._classes_in(folder)
        else:
            prediction = self.folder / name
            classes, found = self._classes_with_masks(prediction)
        if partial_labels:
            annotated = dict(zip(partial_labels.class_names, partial_labels.annotated(case), strict=True))
            classes = tuple(scored for scored in classes if annotated[scored.name])
        missing = tuple(scored.name for scored in classes if found.get(scored.name, prediction) is None)
        classes = tuple(scored for scored in classes if scored.name not in missing)
        masks = {scored.name: file for scored in classes if (file := found.get(scored.name))}
        if not classes:
            raise UserError(f"{prediction} has none of the classes that case {case!r} annotates.")
        meaning = self._references
        return EvaluationJob(
            case,
            source,
            reference,
            prediction,
            classes,
            masks,
            missing,
            meaning.ignore_label,
            meaning.explained,
            explained,
        )

    def _label_maps(self, folder: Path) -> Mapping[str, Path]:
        if folder not in self._files:
            self._files[folder] = label_map_files(folder) if folder.is_dir() else {}
        return self._files[folder]

    def _classes_in(self, folder: Path) -> tuple[tuple[ScoredClass, ...], frozenset[int]]:
        if folder not in self._classes:
            order = read_prediction_order(folder, self._references, self._order)
            self._classes[folder] = tuple(match_classes(self._references.classes, order)), explained_by(order)
        return self._classes[folder]

    def _classes_with_masks(self, folder: Path) -> tuple[tuple[ScoredClass, ...], dict[str, Path | None]]:
        if not folder.is_dir():
            raise UserError(f"Expected a prediction {folder.name}.nii.gz in {folder.parent}, but found none.")
        files = label_maps_among(filter(Path.is_file, sorted(folder.rglob("*"))), folder)
        masks: dict[str, Path | None] = {}
        classes = []
        for reference in self._references.classes:
            if reference.wanted and len(reference.predicted_as) == 1:
                path = "/".join(map(file_name, reference.predicted_as[0].split("/")))
                found = find_name(path, files)
                masks[reference.name] = None if found is None else files[found]
                classes.append(reference)
        return tuple(classes), masks


def evaluate_case(job: EvaluationJob) -> dict[str, dict[str, float]] | str:
    """Scores one case; see `evaluate_label_map` for what comes out.

    Returns:
        The scores; or what is wrong with the meaning of the references, on which those of all cases depend.

    Raises:
        UserError: A file cannot be read, prediction and reference do not lie on one grid, or the prediction has a value
            that no class explains.
    """
    pair = _read(job)
    if isinstance(pair, str):
        return pair
    grid, label_map, prediction, classes = pair
    return evaluate_label_map(label_map, prediction, grid.spacing[::-1], classes, job.ignore_label)


def draw_case(job: EvaluationJob, images: Path | None = None) -> bytes:
    """A picture of a case that could be scored: reference and prediction where they differ most, as a PNG file.

    Args:
        job: The case.
        images: Folder of the images that the label maps are drawn on, in nnU-Net's naming or by case.

    Raises:
        UserError: A file cannot be read any more, or the image lies on another grid.
    """
    pair = _read(job)
    assert not isinstance(pair, str), "it was scored"
    grid, *maps, classes = pair
    # Small classes come last, over those that contain them; ignored voxels are left out of both.
    classes = sorted(classes, key=lambda scored: -len(scored.reference))
    ignored = maps[0] == job.ignore_label if job.ignore_label is not None else np.zeros(maps[0].shape, bool)
    painted = []
    for array, values in zip(maps, ("reference", "prediction"), strict=True):
        highest = max((value for scored in classes for value in getattr(scored, values)), default=0)
        numbers = np.zeros(highest + 2, np.uint16)
        for number, scored in enumerate(classes, start=1):
            numbers[list(getattr(scored, values))] = number
        numbers[0] = 0
        inside = (array >= 0) & (array <= highest) & ~ignored
        painted.append(numbers[np.where(inside, array, highest + 1)].reshape((1,) * (3 - array.ndim) + array.shape))
    intensities = None
    if images is not None:
        among = label_maps_among(input_files(images), images)
        name = next((name for name in (f"{job.case}_0000", job.case) if name in among), None)
        intensities = None if name is None else read_volumes(among[name])[0]
        if intensities is not None and (difference := intensities.grid.difference(grid)):
            raise UserError(f"Expected {among[name or '']} on the grid of {job.reference}, but they have {difference}.")
    names = {number: scored.name for number, scored in enumerate(classes, start=1)}
    rows = dict(zip(("reference", "prediction"), painted, strict=True))
    return draw_label_maps(rows, None if intensities is None else intensities.array, names, grid, job.case, dpi=70)


def _read(job: EvaluationJob) -> tuple[Grid, _Integers, _Integers, Sequence[ScoredClass]] | str:
    """The grid, both label maps, and the classes with their values in them; or what is wrong with the references."""
    reference = read_volume(job.reference)
    label_map = _whole_numbers(reference, job.reference)
    if complaint := _unexplained(label_map, job.explained, job.case, job.reference):
        return complaint
    if not job.masks:
        prediction = _array(job.prediction, reference, job)
        if complaint := _unexplained(prediction, job.explained_prediction, job.case, job.prediction):
            raise UserError(complaint)
        return reference.grid, label_map, prediction, job.classes
    encoded = encode_masks(_array(job.masks[name], reference, job) for name in job.masks)
    # In atoms, a class is every value whose combination contains it.
    atoms = {
        name: tuple(value for value, combination in enumerate(encoded.combinations) if index in combination)
        for index, name in enumerate(job.masks)
    }
    classes = [replace(scored, prediction=atoms[scored.name]) for scored in job.classes]
    return reference.grid, label_map, encoded.label_map, classes


def _unexplained(array: _Integers, explained: frozenset[int], case: str, file: Path) -> str | None:
    """The sentence for values without a meaning, which would be scored as background."""
    values = np.unique(array[np.isin(array, sorted(explained), invert=True)])
    if not values.size:
        return None
    shown = ", ".join(map(str, values[:5])) + (" ..." if values.size > 5 else "")
    return (
        f"Case {case!r}: expected label values that a class, background or the ignore label explains, but {file} has "
        f"{shown}; name their classes in the dataset.json or label order, or correct the file."
    )


def _array(file: Path, reference: Volume, job: EvaluationJob) -> _Integers:
    """Reads a prediction and checks that it lies on the grid of its reference."""
    prediction = read_volume(file)
    if difference := prediction.grid.difference(reference.grid):
        raise UserError(
            f"Case {job.case!r}: expected {file} on the grid of its reference {job.reference}, but they have "
            f"{difference}; predict on the image that was annotated."
        )
    return _whole_numbers(prediction, file)


def _whole_numbers(volume: Volume, file: Path) -> _Integers:
    """The voxels along as many axes as the file has."""
    try:
        array = as_integers(volume.array)
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    return array[0] if volume.grid.dimension == 2 else array
