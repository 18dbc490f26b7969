"""Finds and reads the cases of a dataset; what differs between datasets is data, an entry of the table."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunetv2_ext.dataset_conversion.entry import DatasetEntry
from nnunetv2_ext.dataset_conversion.layout import Case, FilePattern, annotated_only, find_cases, find_root
from nnunetv2_ext.labels.label_order import LabelOrder
from nnunetv2_ext.utilities.errors import UserError

if TYPE_CHECKING:
    from nnunetv2_ext.images.volumes import Volume


@dataclass(frozen=True)
class ConversionOptions:
    """What the user may choose.

    Attributes:
        order: Label order (name or file) of the generic converters.
        image: File pattern of images of the generic converters.
        label: File pattern of labels of the generic converters.
        channel_names: Channel names of the generic converters; None for CT.
        resample_labels: Resample labels onto the image where their grids differ.
        strict: Warnings are errors.
        accept: Kinds of errors that are only warnings.
        copy_images: Rewrite every image instead of linking those that nnU-Net can read as they are.
        regions: Write the overlapping classes that the field evaluates (organ with its tumour) instead of the labels.
        overlaps: ``"regions"`` or ``"last"``: what becomes of overlapping masks; None for the dataset's own way.
    """

    order: str | None = None
    image: str | None = None
    label: str | None = None
    channel_names: tuple[str, ...] | None = None
    resample_labels: bool = False
    strict: bool = False
    accept: tuple[str, ...] = ()
    copy_images: bool = False
    regions: bool = False
    overlaps: str | None = None


class DatasetConverter:
    """Finds and reads the cases of one dataset. Instances travel to worker processes, so they must pickle.

    Args:
        entry: Where the files of the dataset lie and what they mean.
        source: Its folder.
        options: What the user chose.
    """

    def __init__(self, entry: DatasetEntry, source: Path | str, options: ConversionOptions | None = None) -> None:
        self.entry, self.name = entry, entry.name
        self.source = Path(source)
        self.options = options or ConversionOptions()
        foreign = {name: getattr(self.options, name) for name in ("order", "image", "label", "channel_names")}
        given = [f"--{name}" for name, value in foreign.items() if value is not None]
        if given and not entry.is_generic:
            raise UserError(f"Expected {', '.join(given)} with a generic layout, but {self.name} has its own.")

    @cached_property
    def root(self) -> Path:
        """The folder that the patterns are relative to."""
        return find_root(self.source, self.file_patterns(), self.name)

    def file_patterns(self) -> tuple[FilePattern, ...]:
        """Where the files of this source lie; those of the entry, unless the user says so."""
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
            if re.fullmatch(self.entry.members, case.identifier)
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

    def metadata(self, cases: Sequence[str]) -> dict[str, Any]:
        """Further entries for the dataset.json, given the identifiers of its training cases."""
        return {}
