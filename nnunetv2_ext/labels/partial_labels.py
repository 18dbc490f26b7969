"""Which classes are annotated in which case: the ``partial_labels`` section of a dataset.json.

Source: Ulrich et al., "MultiTalent: A Multi-Dataset Approach to Medical Image Segmentation", MICCAI 2023, section 2.2:
every training image belongs to one source dataset, and a class gives a training signal only where its source
annotates it.

Example:
    ```json
    {
        "labels": {"background": 0, "A/liver": [1, 2], "A/tumour": [2, 2], "B/liver": [3, 3]},
        "regions_class_order": [1, 2, 3],
        "partial_labels": {
            "A": {"classes": ["A/liver", "A/tumour"], "cases": ["A_1", "A_2"], "exceptions": {"A_2": ["A/tumour"]}},
            "B": {"classes": ["B/liver"], "cases": ["B_1"]}
        }
    }
    ```
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from nnunetv2_ext.labels.dataset_json import dataset_json_shape
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.names import check_label_names
from nnunetv2_ext.utilities.validation import check

SECTION = "partial_labels"


@dataclass(frozen=True)
class Source:
    """One source dataset of a collection.

    Attributes:
        classes: Names of the classes that this source annotates.
        cases: Identifiers of its training cases.
        exceptions: Case identifier -> classes of this source that the case lacks (not annotated there).
    """

    classes: tuple[str, ...]
    cases: tuple[str, ...]
    exceptions: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))

    def __reduce__(self) -> tuple[type[Source], tuple[Any, ...]]:
        """Sources travel to workers, read-only mappings do not."""
        return Source, (self.classes, self.cases, dict(self.exceptions))


class PartialLabels:
    """The classes of a collection, its sources, and what is annotated in each case.

    Args:
        regions: Class name -> label values that belong to it (each at least 1), in the order of the output channels.
        sources: Source name -> `Source`.
        ignore_label: Label value of voxels that count for no class; ``None`` where there is none.

    Attributes:
        class_names: Names in the order of the network's output channels, which is the order of ``labels`` in the
            dataset.json without background and ignore (as nnU-Net's ``LabelManager.foreground_regions``).
        sources: Source name -> `Source`, in the order of the dataset.json.
        ignore_label: Label value of voxels that count for no class, or ``None``.

    Raises:
        UserError: Classes, sources and cases contradict each other.
    """

    def __init__(
        self, regions: Mapping[str, Iterable[int]], sources: Mapping[str, Source], ignore_label: int | None = None
    ) -> None:
        self._regions = {name: tuple(sorted({int(value) for value in values})) for name, values in regions.items()}
        self.class_names: tuple[str, ...] = tuple(self._regions)
        self.sources: Mapping[str, Source] = MappingProxyType(dict(sources))
        self.ignore_label = ignore_label
        self._channel_of = {name: channel for channel, name in enumerate(self.class_names)}
        self._check_label_values()
        self._check_sources()
        self._source_of_case = {case: name for name, source in self.sources.items() for case in source.cases}
        self._annotated_by = {name: self._mask(source.classes) for name, source in self.sources.items()}

    @classmethod
    def from_dataset_json(cls, dataset_json: Mapping[str, Any]) -> PartialLabels:
        """Reads ``labels``, ``regions_class_order`` and ``partial_labels`` of a dataset.json and checks them.

        Args:
            dataset_json: Content of a dataset.json file.

        Raises:
            UserError: The section is absent (a plain dataset), or it disagrees with ``labels``.
        """
        section = check(dataset_json, dataset_json_shape("labels"), "the dataset.json").get(SECTION)
        if not section:
            raise UserError(
                f"Expected a collection with a {SECTION!r} section in its dataset.json, but found none; make one with "
                "nnUNetv2_ext_merge_datasets (it also accepts a single dataset), or use a trainer for plain datasets."
            )
        regions, ignore_label = _read_labels(dataset_json["labels"])
        partial_labels = cls(regions, read_sources(section), ignore_label)
        _check_regions_class_order(regions, dataset_json.get("regions_class_order"))
        return partial_labels

    def source_of(self, case: str) -> str:
        """Name of the source that a case belongs to.

        Raises:
            UserError: The case belongs to no source.
        """
        try:
            return self._source_of_case[case]
        except KeyError:
            raise UserError(
                f"Case {str(case)!r} belongs to no source; list it under {SECTION!r} in the dataset.json (the sources "
                f"are {', '.join(self.sources)})."
            ) from None

    def annotated(self, case: str) -> npt.NDArray[np.bool_]:
        """Which classes are annotated in a case.

        Returns:
            Shape (classes,), in the order of `class_names`; a new array.

        Raises:
            UserError: The case belongs to no source.
        """
        name = self.source_of(case)
        annotated = self._annotated_by[name].copy()
        missing = self.sources[name].exceptions.get(case, ())
        if missing:
            annotated &= ~self._mask(missing)
        return annotated

    def label_values(self, class_name: str) -> tuple[int, ...]:
        """Label values that belong to a class, ascending."""
        return self._regions[class_name]

    def region_table(self) -> npt.NDArray[np.bool_]:
        """Which label values belong to which class.

        Returns:
            Shape (classes, label values): column ``v`` stands for the label value ``v``; column 0 is the background
            and always ``False``. The ignore label has no column: it is the number of columns.
        """
        table = np.zeros((len(self.class_names), self._highest_value() + 1), dtype=np.bool_)
        for row, values in enumerate(self._regions.values()):
            table[row, list(values)] = True
        return table

    def check_label_values(self, case: str, label_values: Iterable[int]) -> None:
        """Checks that every value in a case's label map is explained by a class that its source annotates.

        Args:
            case: Identifier of the case.
            label_values: Values that occur in its label map; background, the ignore label and nnU-Net's -1 for voxels
                outside the body are always allowed.

        Raises:
            UserError: A value is explained by none of the classes that the source annotates.
        """
        name = self.source_of(case)
        known = {value for class_name in self.sources[name].classes for value in self._regions[class_name]}
        strange = sorted({int(value) for value in label_values} - known - {-1, 0, self.ignore_label})
        if strange:
            raise UserError(
                f"The label map of case {case!r} has the value(s) {', '.join(map(str, strange))}, which no class of "
                f"its source {name!r} explains (expected {', '.join(map(str, sorted(known)))}); mend the label map or "
                "the 'labels' of the dataset.json."
            )

    def to_json(self) -> dict[str, Any]:
        """The ``partial_labels`` section, ready for a dataset.json."""
        section: dict[str, Any] = {}
        for name, source in self.sources.items():
            section[name] = {"classes": list(source.classes), "cases": list(source.cases)}
            if source.exceptions:
                section[name]["exceptions"] = {case: list(names) for case, names in source.exceptions.items()}
        return section

    def labels_json(self) -> dict[str, Any]:
        """The ``labels`` section: background, every class as a list of at least two integers, ignore.

        A list of two or more integers, ``[3, 3]`` for a single one, makes the stock LabelManager use one sigmoid
        output per class.
        """
        labels: dict[str, Any] = {"background": 0}
        for name, values in self._regions.items():
            labels[name] = list(values) if len(values) > 1 else [values[0], values[0]]
        if self.ignore_label is not None:
            labels["ignore"] = self.ignore_label
        return labels

    def __repr__(self) -> str:
        return f"PartialLabels({len(self.class_names)} classes, {len(self.sources)} sources)"

    def _mask(self, names: Iterable[str]) -> npt.NDArray[np.bool_]:
        mask = np.zeros(len(self.class_names), dtype=np.bool_)
        mask[[self._channel_of[name] for name in names]] = True
        return mask

    def _highest_value(self) -> int:
        return max(value for values in self._regions.values() for value in values)

    def _check_label_values(self) -> None:
        if not self._regions:
            raise UserError("Expected at least one class besides the background in 'labels', but found none.")
        for name, values in self._regions.items():
            if not values or values[0] < 1:
                raise UserError(
                    f"Expected label values of at least 1 for class {name!r} (0 is the background), but found "
                    f"{list(values)}."
                )
        explained = {value for values in self._regions.values() for value in values}
        gaps = sorted(set(range(1, self._highest_value() + 1)) - explained)
        if gaps:
            raise UserError(
                f"No class explains the label value(s) {', '.join(map(str, gaps[:8]))}, but nnU-Net expects the values "
                f"1 to {self._highest_value()} without gaps; add the class to 'labels' or renumber."
            )
        if self.ignore_label is not None and self.ignore_label != self._highest_value() + 1:
            raise UserError(
                f"Expected the ignore label to be {self._highest_value() + 1} (one above the highest label value), but "
                f"found {self.ignore_label}."
            )

    def _check_sources(self) -> None:
        check_label_names((*self.class_names, *self.sources), f"the classes and {SECTION!r} of a collection")
        seen: dict[str, str] = {}
        for name, source in self.sources.items():
            _refuse_repetition(source.classes, f"class(es) of source {name!r}")
            _refuse_repetition(source.cases, f"case(s) of source {name!r}")
            _refuse_unknown(source.classes, self.class_names, f"class(es) of source {name!r}", "labels")
            for case in source.cases:
                if case in seen:
                    raise UserError(
                        f"Case {case!r} is listed in two sources ({seen[case]} and {name}), but a case belongs to one."
                    )
                seen[case] = name
            _refuse_unknown(source.exceptions, source.cases, f"case(s) in the exceptions of source {name!r}", "cases")
            for case, names in source.exceptions.items():
                _refuse_unknown(names, source.classes, f"class(es) that case {case!r} lacks", f"classes of {name}")
        self._check_every_class_has_a_source()

    def _check_every_class_has_a_source(self) -> None:
        annotated = {name for source in self.sources.values() for name in source.classes}
        orphans = [name for name in self.class_names if name not in annotated]
        if orphans:
            raise UserError(
                f"No source annotates the class(es) {', '.join(orphans)} of 'labels'; add them to the 'classes' of a "
                f"source in {SECTION!r} or remove them."
            )


def read_sources(section: Mapping[str, Any]) -> dict[str, Source]:
    """The sources of a ``partial_labels`` section."""
    return {
        name: Source(
            tuple(entry["classes"]),
            tuple(entry["cases"]),
            MappingProxyType({case: tuple(classes) for case, classes in entry.get("exceptions", {}).items()}),
        )
        for name, entry in section.items()
    }


def _read_labels(labels: Mapping[str, Any]) -> tuple[dict[str, tuple[int, ...]], int | None]:
    if labels.get("background") != 0:
        raise UserError("Expected 'labels' with \"background\": 0 in the dataset.json, but found no such entry.")
    ignore_label = labels.get("ignore")
    if isinstance(ignore_label, list | tuple):
        raise UserError(f"Expected an integer as the ignore label, but found {ignore_label!r}.")
    regions: dict[str, tuple[int, ...]] = {}
    for name, values in labels.items():
        if name in ("background", "ignore"):
            continue
        if not isinstance(values, list | tuple) or len(values) < 2:
            example = [values, values] if isinstance(values, int) else [3, 3]
            raise UserError(
                f"Expected class {name!r} of a collection to be a list of at least two integers, but found {values!r}; "
                f"write a single label value twice, like {example}, so that nnU-Net gives every class its own output."
            )
        regions[name] = tuple(values)
    return regions, ignore_label


def _check_regions_class_order(regions: Mapping[str, tuple[int, ...]], order: Any) -> None:
    if order is None or len(order) != len(regions):
        found = "none" if order is None else len(order)
        raise UserError(
            f"Expected 'regions_class_order' with one label value for each of the {len(regions)} classes, but found "
            f"{found}."
        )
    for (name, values), painted in zip(regions.items(), order, strict=True):
        if painted not in values:
            raise UserError(
                f"Expected 'regions_class_order' to paint class {name!r} with one of its label values "
                f"{sorted(set(values))}, but found {painted!r}."
            )


def _refuse_repetition(names: tuple[str, ...], what: str) -> None:
    repeated = sorted(name for name, count in Counter(names).items() if count > 1)
    if repeated:
        raise UserError(f"Expected every name once among the {what}, but {', '.join(repeated)} is there more often.")


def _refuse_unknown(names: Iterable[str], known: Iterable[str], what: str, where: str) -> None:
    known_names = set(known)
    unknown = [name for name in names if name not in known_names]
    if unknown:
        raise UserError(
            f"Expected the {what} to be in '{where}', but {', '.join(unknown)} do not exist in '{where}'; correct the "
            "name or add it there."
        )
