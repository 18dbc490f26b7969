"""Finds and reads the cases of a dataset; what differs between datasets is data, an entry of the table."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunetv2_ext import __version__
from nnunetv2_ext.dataset_conversion.case_record import CaseRecord
from nnunetv2_ext.dataset_conversion.checks import TargetLabels
from nnunetv2_ext.dataset_conversion.entry import DatasetEntry
from nnunetv2_ext.dataset_conversion.layout import Case, FilePattern, annotated_only, find_cases, find_root
from nnunetv2_ext.dataset_conversion.regions import region_labels
from nnunetv2_ext.dataset_conversion.splits import Splits, stratified_splits
from nnunetv2_ext.labels.atoms import AtomTable
from nnunetv2_ext.labels.label_order import LabelOrder
from nnunetv2_ext.utilities.errors import UserError

if TYPE_CHECKING:
    from nnunetv2_ext.images.geometry import Grid
    from nnunetv2_ext.images.volumes import Volume

# What only some layouts take, and its flag.
_OF_LAYOUTS = {
    **{name: f"--{name}" for name in ("order", "image", "label", "test_image", "test_label", "classes")},
    "channel_names": "--channels",
}


@dataclass(frozen=True)
class ConversionOptions:
    """What the user may choose.

    Attributes:
        order: Label order (name or file) of the generic converters.
        image: File pattern of images of the generic converters.
        label: File pattern of labels of the generic converters.
        test_image: File pattern of images of a test set of the generic converters.
        test_label: File pattern of the labels of those, where there are any.
        channel_names: Channel names of the generic converters; None for CT.
        resample_labels: Resample labels onto the image where their grids differ.
        strict: Warnings are errors.
        accept: Kinds of errors that are only warnings.
        copy_images: Copy images instead of linking those that nnU-Net can read as they are.
        regions: Write the overlapping classes that the field evaluates (organ with its tumour) instead of the labels.
        overlaps: ``"regions"`` or ``"last"``: what becomes of overlapping masks; None for the dataset's own way.
        classes: What annotations in DICOM delineate, as ``"class"`` or ``"class=name of the structure"``.
        group: Which cases belong to one patient and stay in one fold (`read_groups`).
        orientation: Turn all images and label maps to it (`Grid.orientation`); None leaves them as they lie.
    """

    order: str | None = None
    image: str | None = None
    label: str | None = None
    test_image: str | None = None
    test_label: str | None = None
    channel_names: tuple[str, ...] | None = None
    classes: tuple[str, ...] | None = None
    resample_labels: bool = False
    strict: bool = False
    accept: tuple[str, ...] = ()
    copy_images: bool = False
    regions: bool = False
    overlaps: str | None = None
    group: str | None = None
    orientation: str | None = None


class DatasetConverter:
    """Finds and reads the cases of one dataset. Instances travel to worker processes, so they must pickle.

    Args:
        entry: Where the files of the dataset lie and what they mean.
        source: Its folder.
        options: What the user chose.
    """

    file_ending = ".nii.gz"
    report_file = "conversion_report.json"
    admits_2d = False
    #: Whether all channels of a case are one file.
    joins_channels = False
    #: Whether one bad case spoils the dataset.
    all_or_nothing = False

    def __init__(self, entry: DatasetEntry, source: Path | str, options: ConversionOptions | None = None) -> None:
        self.entry, self.name = entry, entry.name
        self.source = Path(source)
        self.options = options or ConversionOptions()
        foreign = [name for name in _OF_LAYOUTS if name not in entry.options]
        given = [_OF_LAYOUTS[name] for name in foreign if getattr(self.options, name)]
        if given:
            raise UserError(f"Expected no {', '.join(given)} with {self.name}, which has its own files and names.")

    @cached_property
    def root(self) -> Path:
        """The folder that the patterns are relative to."""
        return find_root(self.source, self.file_patterns(), self.name)

    def file_patterns(self) -> tuple[FilePattern, ...]:
        """Where the files of this source lie.

        Raises:
            UserError: What the user says of that cannot be.
        """
        return self.entry.patterns

    def cases(self) -> list[Case]:
        """All cases, in a fixed order.

        Raises:
            UserError: The source does not have this dataset's layout.
        """
        found = find_cases(self.root, self.file_patterns(), self.channels())
        if self.entry.is_generic:
            return found
        if self.entry.annotated_only:
            found = annotated_only(found)
        table, parts = self.entry.split_table.read(self.root) if self.entry.split_table else (None, {})
        return [
            self._judged(case, table, parts.get(case.identifier))
            for case in found
            if re.fullmatch(self.entry.members, case.identifier, re.DOTALL)
            and not (case.problem and case.identifier in self.entry.absent)
        ]

    def _judged(self, case: Case, table: Path | None, part: str | None) -> Case:
        """The case with its part of the dataset, and with a reason where it cannot be converted."""
        if re.search(r" \(\d+\)$", case.identifier):
            problem = f"Expected each file once, but {case.identifier!r} is a browser's name for a second download."
            return replace(case, problem=problem)
        if self.entry.is_test(case.identifier):
            case = replace(case, split="test")
        if part is not None and self.entry.split_table is not None:
            values = self.entry.split_table.values
            if part not in values:
                names = ", ".join(values)
                problem = f"Expected one of {names} as {case.identifier} in {table}, but found {part!r}."
                return replace(case, problem=problem)
            value = values[part]
            case = replace(case, fold=value) if isinstance(value, int) else replace(case, split=value)
        if case.masks:
            case = self._with_known_masks(case)
        # Annotations of test sets are often not published.
        return replace(case, problem="") if case.split == "test" and case.images else case

    def _with_known_masks(self, case: Case) -> Case:
        named = {mask: self.order.find(mask) for mask in case.masks}
        foreign = sorted(mask for mask, name in named.items() if name is None)
        problem = case.problem
        if foreign and not self.entry.extra_masks:
            problem = (
                f"Expected the classes of {self.order.name}, but found masks of {', '.join(foreign[:4])}; "
                f"what is known is {self.entry.about}"
            )
        masks = {name: case.masks[mask] for mask, name in named.items() if name is not None}
        return replace(case, masks=masks, problem=problem)

    @cached_property
    def order(self) -> LabelOrder:
        """What the integers of the source's label maps mean; for masks, the names of the classes."""
        return LabelOrder.read(self.entry.label_order or self.name)

    @property
    def target_order(self) -> LabelOrder:
        """What the integers of the nnU-Net dataset mean: those of the source without gaps."""
        return self.order.consecutive()

    @property
    def target(self) -> TargetLabels:
        """What the integers of the nnU-Net dataset mean."""
        order = self.target_order
        return TargetLabels(order.name, order.labels, order.ignore_label, order.left_right_pairs)

    def values(self, case: Case) -> Mapping[int, int]:
        """What becomes of each integer that a case's label map may hold."""
        ignore = self.order.ignore_label
        known = [0, *self.order.values, *([] if ignore is None else [ignore])]
        table = dict(zip(known, self.order.remap(known, to=self.target_order).tolist(), strict=True))
        return table | {old: table[new] for old, new in self.rewritten_values().items()}

    def rewritten_values(self) -> Mapping[int, int]:
        """Integers of the label maps that stand for another class, or (0) for none."""
        return self.entry.rewrite_values

    def channels(self) -> tuple[str, ...]:
        """nnU-Net's channel names."""
        return self.options.channel_names or self.entry.channels

    def read_image(self, case: Case) -> list[Volume]:
        """The channels of a case.

        Raises:
            UserError: A file cannot be read.
        """
        from nnunetv2_ext.images.reading import read_dicom_series, read_volumes

        return [
            volume
            for path in case.images
            for volume in ([read_dicom_series(path)] if path.is_dir() else read_volumes(path, finite=False))
        ]

    def read_label(self, case: Case, image: Volume) -> Volume:
        """The label map of a case, in the integers of `order`.

        Args:
            case: A case with a label.
            image: Its first channel, for annotations that have no grid of their own.

        Raises:
            UserError: The file cannot be read.
        """
        from nnunetv2_ext.images.reading import read_volume

        assert case.label is not None
        return read_volume(case.label)

    def read_masks(self, case: Case, grid: Grid) -> Iterator[Volume]:
        """The masks of a case, one at a time, in the order of the classes in `order`.

        Args:
            case: A case with masks.
            grid: Of its first channel, for annotations that have no grid of their own.

        Raises:
            UserError: A file cannot be read.
        """
        from nnunetv2_ext.images.reading import read_volume

        return (read_volume(case.masks[name]) for name in self.order.labels if name in case.masks)

    # The dataset ---------------------------------------------------------------------------------------------------

    @property
    def folders(self) -> list[Path]:
        """What is read, and must not be replaced by what is written."""
        return [self.source]

    def settings(self) -> dict[str, Any]:
        """What all cases of a dataset have in common; cases under other settings must not be mixed with them."""
        options = self.options
        tests = {"test_image": options.test_image, "test_label": options.test_label} if options.test_image else {}
        return {
            "converter": self.name,
            "source": [str(folder.resolve()) for folder in self.folders],
            "image": options.image,
            "label": options.label,
            **tests,
            "overlaps": "last" if self.masks_exclude else "regions",
            "channels": list(self.channels()),
            "orientation": options.orientation,
            **self.meaning(),
        }

    def meaning(self) -> dict[str, Any]:
        """The part of the settings that says what integers mean."""
        case = Case("", ())
        return {
            "labels": self.target_order.nnunet_labels(),
            "values": {str(old): new for old, new in self.values(case).items()},
            "regions": list(region_labels(self.target_order)) if self.options.regions else None,
        }

    @property
    def masks_exclude(self) -> bool:
        """Whether the later of two masks that overlap wins."""
        chosen = self.options.overlaps
        return self.entry.masks_exclude if chosen is None else chosen == "last"

    def dataset_json(self, name: str, training: Sequence[str], table: AtomTable | None = None) -> dict[str, Any]:
        """The content of dataset.json.

        Args:
            name: Folder name of the dataset.
            training: Identifiers of the training cases.
            table: Label values of overlapping masks, where there are any.
        """
        order = self.target_order
        content = self.common_json(name, training) | {
            "labels": order.nnunet_labels(),
            "description": order.description,
            "reference": order.source,
            "licence": order.licence,
            "converted_by": f"nnunetv2-ext {__version__}, nnUNetv2_ext_convert_dataset {self.name}",
        }
        if table is not None and table.has_overlaps:
            content["labels"] = table.labels_json()
            content["regions_class_order"] = table.regions_class_order()
        elif self.options.regions:
            content["labels"], content["regions_class_order"] = region_labels(order)
        return content | self.metadata(training)

    def common_json(self, name: str, training: Sequence[str]) -> dict[str, Any]:
        """The part of dataset.json that every dataset has, whatever its labels are."""
        return {
            "channel_names": {str(index): channel for index, channel in enumerate(self.channels())},
            "numTraining": len(training),
            "file_ending": self.file_ending,
            "name": name,
        }

    def metadata(self, cases: Sequence[str]) -> dict[str, Any]:
        """Further entries for the dataset.json, given the identifiers of its training cases."""
        return {}

    def splits(self, training: Sequence[CaseRecord], groups: Sequence[Sequence[str]]) -> Splits:
        """The source's own folds, else folds that keep groups together, else nothing; groups of the user's come first.

        Args:
            training: The cases for training.
            groups: Those of them that show the same image, or are of one patient.
        """
        names = sorted(record.identifier for record in training)
        folds: dict[int, set[str]] = defaultdict(set)
        for record in training:
            if record.fold is not None:
                folds[record.fold].add(record.identifier)
        if not folds and any(record.split == "val" for record in training):
            folds[0] = {record.identifier for record in training if record.split == "val"}
        if not folds or self.options.group:
            return stratified_splits(dict.fromkeys(names, ""), groups) if groups else []
        return [
            {"train": [name for name in names if name not in folds[fold]], "val": sorted(folds[fold])}
            for fold in sorted(folds)
        ]

    def report_entries(self, splits: Splits) -> dict[str, Any]:
        """Further entries for the report, given the folds."""
        return {}
