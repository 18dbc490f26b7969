"""Which cases an nnU-Net raw dataset has, and what its label values mean."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from nnunetv2_ext.dataset_conversion.checks import TargetLabels
from nnunetv2_ext.dataset_conversion.layout import Case
from nnunetv2_ext.dataset_conversion.merge_inputs import raw_cases, raw_dataset_folder
from nnunetv2_ext.labels.channels import BACKGROUND, IGNORE
from nnunetv2_ext.labels.dataset_json import LABEL_VALUE, image_channels, read_dataset_json
from nnunetv2_ext.labels.partial_labels import SECTION, Source, read_sources
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.names import check_label_names, checked_ending
from nnunetv2_ext.utilities.validation import check, entries

# Sides in names of classes, with what stands for the other one: "kidney_left", "Left kidney", "A_Carotid_L".
_OTHER_SIDE = {"left": "right", "Left": "Right", "LEFT": "RIGHT", "l": "r", "L": "R"}
_LEFT = re.compile(rf"(?<![A-Za-z])({'|'.join(_OTHER_SIDE)})(?![A-Za-z])")


@dataclass(frozen=True)
class RawDataset:
    """A raw dataset as its page shows it.

    Attributes:
        folder: Where it is.
        channels: Channel names in order.
        values: Class -> its label values.
        ignore_label: Label value of voxels that nobody annotated; None where there are none.
        cases: Training and test cases, by their own names; nobody has looked whether their files are there.
        sources: Source -> its classes and cases, for collections.
    """

    folder: Path
    channels: tuple[str, ...]
    values: Mapping[str, tuple[int, ...]]
    ignore_label: int | None
    cases: tuple[Case, ...]
    sources: Mapping[str, Source] = field(default_factory=dict)

    @cached_property
    def source_of(self) -> dict[str, str]:
        """Training case -> source."""
        return {case: name for name, source in self.sources.items() for case in source.cases}

    def annotated(self, case: str) -> tuple[str, ...]:
        """The classes that are annotated in a case: all of them, but for those that its source or the case lacks."""
        if not self.sources:
            return tuple(self.values)
        if case not in self.source_of:
            return ()
        source = self.sources[self.source_of[case]]
        return tuple(
            name for name in source.classes if name in self.values and name not in source.exceptions.get(case, ())
        )

    def explained(self, case: str) -> frozenset[int]:
        """The label values that a case may hold."""
        of_source = self.sources[self.source_of[case]].classes if case in self.source_of else self.values
        special = {0} if self.ignore_label is None else {0, self.ignore_label}
        return frozenset(special | {value for name in of_source for value in self.values.get(name, ())})

    @cached_property
    def names(self) -> dict[int, str]:
        """Label value -> the smallest class that it belongs to, which is drawn over those that contain it."""
        smallest_last = sorted(self.values.items(), key=lambda item: -len(item[1]))
        return {value: name for name, values in smallest_last for value in values if value}

    @cached_property
    def numbers(self) -> dict[str, int]:
        """Class -> its number, from 1 on in the order of dataset.json."""
        return {name: number for number, name in enumerate(self.values, start=1)}

    @property
    def target(self) -> TargetLabels:
        """The classes by their numbers, of which a voxel may have several, instead of by label values."""
        return TargetLabels(self.folder.name, self.numbers, None, tuple(left_right_pairs(self.values)))


def read_raw_dataset(dataset: str) -> RawDataset:
    """Finds a dataset and its cases.

    Args:
        dataset: ID, full name or folder.

    Raises:
        UserError: There is none, it has no cases, or its dataset.json cannot be understood.
    """
    folder = raw_dataset_folder(dataset)
    content = read_dataset_json(folder / "dataset.json", "file_ending")
    checked_ending(content["file_ending"], folder / "dataset.json")
    labels = dict(content["labels"])
    check(labels, entries({IGNORE: LABEL_VALUE}), f"the labels of {folder / 'dataset.json'}")
    check_label_names(labels, folder / "dataset.json")
    labels.pop(BACKGROUND, None)
    ignore_label = labels.pop(IGNORE, None)
    cases = raw_cases(folder, content)
    if not cases:
        raise UserError(f"Expected images (imagesTr/<case>_0000{content['file_ending']}) in {folder}, but found none.")
    return RawDataset(
        folder.resolve(),
        tuple(image_channels(content)),
        {name: tuple(dict.fromkeys(each if isinstance(each, list) else [each])) for name, each in labels.items()},
        ignore_label,
        tuple(cases),
        read_sources(content.get(SECTION, {})),
    )


def left_right_pairs(names: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs (left, right) of classes, by their names."""
    known = list(names)
    pairs = [(name, _LEFT.sub(lambda side: _OTHER_SIDE[side[0]], name)) for name in known if _LEFT.search(name)]
    return [pair for pair in pairs if pair[1] in known]
