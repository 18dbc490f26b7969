"""What the table of datasets says of one of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunetv2_ext.dataset_conversion.layout import FilePattern, Split
from nnunetv2_ext.resources import list_resources, resource_folder
from nnunetv2_ext.utilities.files import read_json, read_table

if TYPE_CHECKING:
    from nnunetv2_ext.dataset_conversion.converter import ConversionOptions, DatasetConverter


@dataclass(frozen=True)
class SplitTable:
    """A table (CSV) in or beside the dataset's folder that says which case belongs to which part; it may be missing.

    Attributes:
        file: Its name, with ``*`` for anything.
        case: Column of the case.
        part: Column of the part.
        values: What that column may say -> split, or number of the fold whose validation set the case belongs to.
        separator: Between columns.
    """

    file: str
    case: str
    part: str
    values: Mapping[str, Split | int]
    separator: str = ","

    def read(self, root: Path) -> tuple[Path | None, dict[str, str]]:
        """The file, and what it says of each case."""
        tables = sorted(table for folder in (root.parent, root) for table in folder.glob(self.file))
        if not tables:
            return None, {}
        rows = read_table(tables[-1], (self.case, self.part), self.separator)
        return tables[-1], {row[self.case]: row[self.part] for row in rows if row[self.case]}


@dataclass(frozen=True)
class DatasetEntry:
    """A dataset that can be converted: where its files lie, what they mean and where they come from.

    Attributes:
        name: On the command line.
        title: Ending of the nnU-Net dataset's folder name.
        about: What it is, in one line.
        patterns: Where its files lie; empty where the user says so.
        note: What else there is to know about its files, as Markdown.
        label_order: Name of the label order that its label maps are in, where that has not the name of the dataset.
        channels: nnU-Net's channel names; ``CT`` chooses CT normalisation.
        cases: How many there are for training; None where unknown.
        tests: How many there are for testing; None where unknown.
        size: Of the download; None where unknown.
        checked: What of this entry was seen in listings of the archive or in loaders of others, and what is from the
            paper only.
        absent: Cases that its labels or tables name but that do not exist -> why.
        members: Which cases belong to it (regular expression), where several datasets share a folder.
        test_cases: Which cases are the test set (regular expression), where that is not a folder of its own.
        split_table: Where a table says which cases are the test set, or folds.
        annotated_only: Whether images without annotation are left out, because the annotation is of a part of them.
        masks_exclude: Whether masks are meant not to overlap, so that stray overlaps need no regions.
        extra_masks: Whether masks of further classes are passed over instead of refused.
        label_grids_are_wrong: Label maps have the image's voxels but a header that does not say where they lie.
        rewrite_values: Integers of its label maps that stand for another class, or (0) for none.
        is_generic: Whether the user says what the files mean.
        options: What of the `ConversionOptions` it takes that only some layouts do.
        module: Module of ``datasets/`` whose ``Converter`` does what this table cannot say.
    """

    name: str
    title: str
    about: str
    patterns: tuple[FilePattern, ...] = ()
    note: str = ""
    label_order: str = ""
    channels: tuple[str, ...] = ("CT",)
    cases: int | None = None
    tests: int | None = None
    size: str | None = None
    checked: str = ""
    absent: Mapping[str, str] = field(default_factory=dict)
    members: str = ".*"
    test_cases: str | None = None
    split_table: SplitTable | None = None
    annotated_only: bool = False
    masks_exclude: bool = True
    extra_masks: bool = False
    label_grids_are_wrong: bool = False
    rewrite_values: Mapping[int, int] = field(default_factory=dict)
    is_generic: bool = False
    options: tuple[str, ...] = ()
    module: str = ""

    def open(self, source: Path | str, options: ConversionOptions | None = None) -> DatasetConverter:
        """The converter of a folder."""
        import importlib

        from nnunetv2_ext.dataset_conversion import converter, datasets

        if not self.module:
            return converter.DatasetConverter(self, source, options)
        opened: DatasetConverter = importlib.import_module(f"{datasets.__name__}.{self.module}").Converter(
            self, source, options
        )
        return opened

    @property
    def facts(self) -> dict[str, Any]:
        """What is known about the download, the unknown left out; licence and citation are those of the labels."""
        order = self.label_order or self.name
        known = order in list_resources("label_orders")
        labels = read_json(resource_folder("label_orders") / f"{order}.json") if known else {}
        *citation, page = labels.get("source", "").split("; ")
        facts = {
            "label order": order if known else None,
            "channels": None if self.is_generic else ", ".join(self.channels),
            "download": page,
            "size": self.size,
            "training cases": self.cases,
            "test cases": self.tests,
            "licence": labels.get("licence"),
            "citation": "; ".join(citation),
            "known absences": "; ".join(f"{case} ({why})" for case, why in self.absent.items()),
            "checked": self.checked,
        }
        return {name: fact for name, fact in facts.items() if fact}

    @property
    def layout(self) -> list[str]:
        """The files of a case, a line per pattern."""
        return [
            "   ".join(filter(None, (each.image, each.label, "" if each.split == "train" else f"({each.split})")))
            for each in self.patterns
        ]

    def is_test(self, case: str) -> bool:
        """Whether a case belongs to the test set by its name."""
        return self.test_cases is not None and re.fullmatch(self.test_cases, case, re.DOTALL) is not None
