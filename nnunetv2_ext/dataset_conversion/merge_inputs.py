"""Reads the nnU-Net raw datasets that a merge starts from, without opening an image."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nnunetv2_ext.dataset_conversion.layout import Case
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
class InputDataset:
    """A raw dataset as the merge sees it. Class names carry their source: ``<source>/<class>``.

    Attributes:
        folder: Where it is.
        regions: Class name -> its label values in this dataset, in the order of ``labels``.
        painted: Class name -> the value that ``regions_class_order`` paints it with.
        sources: Source name -> classes, training cases (merged identifiers) and exceptions; several for a collection.
        cases: All cases.
        channels: Channel names in order.
        file_ending: Such as ``".nii.gz"``.
        ignore_label: Value of voxels that count for nothing, or ``None``.
        dataset_json: Content of the file.
    """

    folder: Path
    regions: Mapping[str, tuple[int, ...]]
    painted: Mapping[str, int]
    sources: Mapping[str, Source]
    cases: tuple[Case, ...]
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
    folder = raw_dataset_folder(dataset)
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
    cases = _cases_of(folder, dataset_json, len(channels))
    if SECTION in dataset_json:
        if given_name:
            raise UserError(f"{dataset} is a collection with sources of its own; give it without '{given_name}='.")
        try:
            return _read_collection(folder, dataset_json, cases, channels)
        except UserError as error:
            raise UserError(f"{folder / 'dataset.json'}: {error}") from None
    name = checked_name(given_name or re.sub(r"^Dataset\d{3}_", "", folder.resolve().name), "a source name")
    return _read_plain_dataset(folder, dataset_json, cases, channels, name)


def raw_dataset_folder(dataset: str) -> Path:
    """The folder of a raw dataset that is named by its ID, its name or its folder.

    Raises:
        UserError: There is no such dataset.
    """
    folder = Path(dataset)
    if (folder / "dataset.json").is_file():
        return folder
    if folder.is_dir() and not re.fullmatch(r"\d+|Dataset\d{3}_.+", dataset):
        raise UserError(
            f"Expected an nnU-Net raw dataset in the folder {folder}, but it has no dataset.json; give the ID, name or "
            "folder of a dataset."
        )
    return nnunet_folder("nnUNet_raw") / dataset_name(dataset, "nnUNet_raw")


def _read_plain_dataset(
    folder: Path,
    dataset_json: Mapping[str, Any],
    found: Sequence[Case],
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
    names = case_names(f"{name}_{case.own_name}" for case in found)
    cases = tuple(replace(case, identifier=names[f"{name}_{case.own_name}"], source=name) for case in found)
    return InputDataset(
        folder=folder,
        regions=regions,
        painted=dict(zip(regions, order, strict=True)) if order else {n: min(v) for n, v in regions.items()},
        sources={name: Source(tuple(regions), tuple(case.identifier for case in cases if case.split == "train"))},
        cases=cases,
        channels=channels,
        file_ending=dataset_json["file_ending"],
        ignore_label=labels.get("ignore"),
        dataset_json=dataset_json,
    )


def _read_collection(
    folder: Path,
    dataset_json: Mapping[str, Any],
    found: Sequence[Case],
    channels: tuple[str, ...],
) -> InputDataset:
    partial_labels = PartialLabels.from_dataset_json(dataset_json)
    training = {case.own_name for case in found if case.split == "train"}
    absent = [case for source in partial_labels.sources.values() for case in source.cases if case not in training]
    if absent:
        raise UserError(
            f"The {SECTION!r} list case(s) that have no images: {', '.join(absent[:5])}; remove them there or add the "
            "images."
        )
    names = case_names(case.own_name for case in found)
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
            replace(
                case,
                identifier=names[case.own_name],
                source=partial_labels.source_of(case.own_name) if case.split == "train" else "",
            )
            for case in found
        ),
        channels=channels,
        file_ending=dataset_json["file_ending"],
        ignore_label=partial_labels.ignore_label,
        dataset_json=dataset_json,
    )


def raw_cases(folder: Path, dataset_json: Mapping[str, Any]) -> list[Case]:
    """All cases of a raw dataset under their own names; nobody looks whether their files exist."""
    ending = dataset_json["file_ending"]
    training: Iterator[Case] = (
        Case(case, tuple(folder / os.path.expandvars(image) for image in entry["images"]), label, own_name=case)
        for case, entry in dataset_json.get("dataset", {}).items()
        for label in [folder / os.path.expandvars(entry["label"])]
    )
    if "dataset" not in dataset_json:
        training = _cases_in(folder, "Tr", ending)
    return [*training, *_cases_in(folder, "Ts", ending)]


def _cases_of(folder: Path, dataset_json: Mapping[str, Any], number_of_channels: int) -> list[Case]:
    """The same, where every file exists and there are as many training cases as there should be."""
    ending = dataset_json["file_ending"]
    cases = raw_cases(folder, dataset_json)
    training = sum(case.split == "train" for case in cases)
    if not training:
        raise UserError(f"Expected training images (imagesTr/<case>_0000{ending}) in {folder}, but found none.")
    expected = dataset_json.get("numTraining", training)
    if expected != training:
        raise UserError(
            f"Expected {expected} training cases in {folder} (numTraining), but found {training}; correct either."
        )
    for case in cases:
        if len(case.images) != number_of_channels:
            raise UserError(
                f"Expected {number_of_channels} image file(s) for case {case.own_name!r} in {folder} (one per "
                f"channel), but found {len(case.images)}."
            )
        files = [*case.images, *([case.label] if case.label else [])]
        absent = [str(file) for file in files if not file.is_file()]
        if absent:
            raise UserError(
                f"Case {case.own_name!r} of {folder} lacks {', '.join(absent)}; add the file or remove the case."
            )
    return cases


def _cases_in(folder: Path, part: str, ending: str) -> Iterator[Case]:
    """The cases of imagesTr, which have labels, or of imagesTs, which may have some."""
    images_of = defaultdict(list)
    # Names may hold line breaks.
    pattern = re.compile(rf"(.+)_\d{{4}}{re.escape(ending)}", re.DOTALL)
    for file in sorted(folder.glob(f"images{part}/*{ending}")):
        if match := pattern.fullmatch(file.name):
            images_of[match[1]].append(file)
    for case, images in sorted(images_of.items()):
        label = folder / f"labels{part}" / f"{case}{ending}"
        if part == "Tr":
            yield Case(case, tuple(images), label, own_name=case)
        else:
            yield Case(case, tuple(images), label if label.is_file() else None, split="test", own_name=case)
