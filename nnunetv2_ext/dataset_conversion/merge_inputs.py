"""Reads the nnU-Net raw datasets that a merge starts from, without opening an image."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnunetv2_ext.labels.dataset_json import LABEL_VALUE, image_channels, read_dataset_json
from nnunetv2_ext.labels.label_tree import SECTION as LABEL_TREE
from nnunetv2_ext.labels.partial_labels import SECTION, PartialLabels, Source
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.names import FILE_ENDINGS, case_names, checked_ending, checked_name
from nnunetv2_ext.utilities.paths import dataset_name, nnunet_folder
from nnunetv2_ext.utilities.validation import check, choice, entries

# What SimpleITK reads and writes and nnU-Net's SimpleITK or NIfTI readers accept.
_VOLUME_ENDINGS = FILE_ENDINGS[:5]


@dataclass(frozen=True)
class InputCase:
    """One training case.

    Attributes:
        name: Identifier in the merged dataset.
        own_name: Identifier in the dataset that it comes from.
        source: Name of its source.
        images: One file per channel.
        label: The label map.
    """

    name: str
    own_name: str
    source: str
    images: tuple[Path, ...]
    label: Path


@dataclass(frozen=True)
class InputDataset:
    """A raw dataset as the merge sees it. Class names carry their source: ``<source>/<class>``.

    Attributes:
        folder: Where it is.
        regions: Class name -> its label values in this dataset, in the order of ``labels``.
        painted: Class name -> the value that ``regions_class_order`` paints it with.
        sources: Source name -> classes, cases (merged identifiers) and exceptions; several for a collection.
        cases: All training cases.
        channels: Channel names in order.
        file_ending: Such as ``".nii.gz"``.
        ignore_label: Value of voxels that count for nothing, or ``None``.
        dataset_json: Content of the file.
    """

    folder: Path
    regions: Mapping[str, tuple[int, ...]]
    painted: Mapping[str, int]
    sources: Mapping[str, Source]
    cases: tuple[InputCase, ...]
    channels: tuple[str, ...]
    file_ending: str
    ignore_label: int | None = None
    dataset_json: Mapping[str, Any] = field(default_factory=dict)


def read_input_dataset(argument: str) -> InputDataset:
    """Finds and reads one dataset.

    Args:
        argument: ID, full name or folder of a raw dataset, optionally as ``SOURCE=DATASET`` to call the source
            something else than the dataset's name without ``DatasetXXX_``.

    Raises:
        UserError: The dataset does not exist or contradicts itself.
    """
    given_name, _, dataset = argument.rpartition("=")
    folder = Path(dataset)
    if not (folder / "dataset.json").is_file():
        if folder.is_dir() and not re.fullmatch(r"\d+|Dataset\d{3}_.+", dataset):
            raise UserError(
                f"Expected an nnU-Net raw dataset in the folder {folder}, but it has no dataset.json; give the ID, "
                "name or folder of a dataset."
            )
        folder = nnunet_folder("nnUNet_raw") / dataset_name(dataset, "nnUNet_raw")
    dataset_json = read_dataset_json(folder / "dataset.json", "channel_names", "file_ending")
    if LABEL_TREE in dataset_json:
        raise UserError(
            f"Expected datasets of plain classes or regions, but {folder} has a label tree, which merging cannot keep; "
            f"join such datasets by one {LABEL_TREE!r} and one source each in {SECTION!r} (docs/label_trees.md)."
        )
    ending = dataset_json["file_ending"]
    if checked_ending(ending, folder / "dataset.json") not in _VOLUME_ENDINGS:
        raise UserError(f"Expected images of type {', '.join(_VOLUME_ENDINGS)} in {folder}, but found {ending}.")
    channels = tuple(image_channels(dataset_json))
    files = _training_files(folder, dataset_json, len(channels))
    if SECTION in dataset_json:
        if given_name:
            raise UserError(f"{dataset} is a collection with sources of its own; give it without '{given_name}='.")
        try:
            return _read_collection(folder, dataset_json, files, channels)
        except UserError as error:
            raise UserError(f"{folder / 'dataset.json'}: {error}") from None
    name = checked_name(given_name or re.sub(r"^Dataset\d{3}_", "", folder.resolve().name), "a source name")
    return _read_plain_dataset(folder, dataset_json, files, channels, name)


def _read_plain_dataset(
    folder: Path,
    dataset_json: Mapping[str, Any],
    files: Mapping[str, tuple[tuple[Path, ...], Path]],
    channels: tuple[str, ...],
    name: str,
) -> InputDataset:
    labels = dataset_json["labels"]
    special = entries({"background": choice(0), "ignore": LABEL_VALUE}, needed=("background",))
    check(labels, special, f"the labels of {folder / 'dataset.json'}")
    regions = {
        f"{name}/{label}": tuple(values) if isinstance(values, list) else (values,)
        for label, values in labels.items()
        if label not in ("background", "ignore")
    }
    is_region_based = any(isinstance(values, list | tuple) and len(values) > 1 for values in labels.values())
    order = dataset_json.get("regions_class_order") if is_region_based else None
    if is_region_based and (order is None or len(order) != len(regions)):
        raise UserError(
            f"Expected 'regions_class_order' with {len(regions)} entries in {folder / 'dataset.json'}, but found "
            f"{'none' if order is None else len(order)}."
        )
    wanted = {own_name: f"{name}_{own_name}" for own_name in files}
    names = case_names(wanted.values())
    cases = tuple(
        InputCase(names[wanted[own_name]], own_name, name, images, label) for own_name, (images, label) in files.items()
    )
    return InputDataset(
        folder=folder,
        regions=regions,
        painted=dict(zip(regions, order, strict=True)) if order else {n: min(v) for n, v in regions.items()},
        sources={name: Source(tuple(regions), tuple(case.name for case in cases))},
        cases=cases,
        channels=channels,
        file_ending=dataset_json["file_ending"],
        ignore_label=labels.get("ignore"),
        dataset_json=dataset_json,
    )


def _read_collection(
    folder: Path,
    dataset_json: Mapping[str, Any],
    files: Mapping[str, tuple[tuple[Path, ...], Path]],
    channels: tuple[str, ...],
) -> InputDataset:
    partial_labels = PartialLabels.from_dataset_json(dataset_json)
    absent = [case for source in partial_labels.sources.values() for case in source.cases if case not in files]
    if absent:
        raise UserError(
            f"The {SECTION!r} list case(s) that have no images: {', '.join(absent[:5])}; remove them there or add the "
            "images."
        )
    names = case_names(files)
    sources = {
        name: Source(
            source.classes,
            tuple(names[case] for case in source.cases),
            {names[case]: classes for case, classes in source.exceptions.items()},
        )
        for name, source in partial_labels.sources.items()
    }
    return InputDataset(
        folder=folder,
        regions={name: partial_labels.label_values(name) for name in partial_labels.class_names},
        painted=dict(zip(partial_labels.class_names, dataset_json["regions_class_order"], strict=True)),
        sources=sources,
        cases=tuple(
            InputCase(names[name], name, partial_labels.source_of(name), images, label)
            for name, (images, label) in files.items()
        ),
        channels=channels,
        file_ending=dataset_json["file_ending"],
        ignore_label=partial_labels.ignore_label,
        dataset_json=dataset_json,
    )


def _training_files(
    folder: Path, dataset_json: Mapping[str, Any], number_of_channels: int
) -> dict[str, tuple[tuple[Path, ...], Path]]:
    """Case -> image files and label map; every file exists."""
    ending = dataset_json["file_ending"]
    files: dict[str, tuple[tuple[Path, ...], Path]] = {}
    if "dataset" in dataset_json:
        for case, entry in dataset_json["dataset"].items():
            images = tuple(folder / os.path.expandvars(image) for image in entry["images"])
            files[case] = images, folder / os.path.expandvars(entry["label"])
    else:
        images_of = defaultdict(list)
        pattern = re.compile(rf"(.+)_\d{{4}}{re.escape(ending)}")
        for file in sorted(folder.glob(f"imagesTr/*{ending}")):
            if match := pattern.fullmatch(file.name):
                images_of[match[1]].append(file)
        files = {
            case: (tuple(images), folder / "labelsTr" / f"{case}{ending}") for case, images in sorted(images_of.items())
        }
    if not files:
        raise UserError(f"Expected training images (imagesTr/<case>_0000{ending}) in {folder}, but found none.")
    for case, (images, label) in files.items():
        if len(images) != number_of_channels:
            raise UserError(
                f"Expected {number_of_channels} image file(s) for case {case!r} in {folder} (one per channel), but "
                f"found {len(images)}."
            )
        absent = [str(file) for file in (*images, label) if not file.is_file()]
        if absent:
            raise UserError(f"Case {case!r} of {folder} lacks {', '.join(absent)}; add the file or remove the case.")
    expected = dataset_json.get("numTraining", len(files))
    if expected != len(files):
        raise UserError(
            f"Expected {expected} training cases in {folder} (numTraining), but found {len(files)}; correct either."
        )
    return files
