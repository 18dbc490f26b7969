"""Decides what the classes and label values of a merged dataset are, before any file is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from nnunetv2_ext.dataset_conversion.checks import TargetLabels
from nnunetv2_ext.dataset_conversion.merge_inputs import InputDataset
from nnunetv2_ext.labels.dataset_json import NAMES
from nnunetv2_ext.labels.partial_labels import PartialLabels, Source
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.files import read_json
from nnunetv2_ext.utilities.validation import mapping_of


@dataclass(frozen=True)
class MergeOptions:
    """What the user wants changed. Classes are named ``<source>/<class>`` throughout.

    Attributes:
        share: New name -> classes that become one class, in one source or across sources.
        select: Classes to keep; a source of which none is named keeps all. Empty: keep everything.
        rename: Class -> new name.
        exceptions: ``<source>/<case>`` -> classes (without source) that the case lacks.
    """

    share: Mapping[str, Sequence[str]] = field(default_factory=dict)
    select: Sequence[str] = ()
    rename: Mapping[str, str] = field(default_factory=dict)
    exceptions: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class MergePlan:
    """The merged dataset on paper.

    Attributes:
        partial_labels: Classes, label values, sources and cases.
        regions_class_order: The value that each class is painted with in a single label map.
        value_tables: For each input dataset, its label value -> the merged one (0 where no class was kept).
    """

    partial_labels: PartialLabels
    regions_class_order: tuple[int, ...]
    value_tables: tuple[Mapping[int, int], ...]

    @property
    def target(self) -> TargetLabels:
        """What the merged integers mean."""
        labels = self.partial_labels
        values = {name: labels.label_values(name) for name in labels.class_names}
        return TargetLabels("the collection", values, labels.ignore_label)

    def labels_json(self) -> dict[str, Any]:
        """The entries of dataset.json that say what the integers mean."""
        return {
            "labels": self.partial_labels.labels_json(),
            "regions_class_order": list(self.regions_class_order),
            "partial_labels": self.partial_labels.to_json(),
        }


def plan_merge(inputs: Sequence[InputDataset], options: MergeOptions) -> MergePlan:
    """Gives every label value of every input a number of its own and every class its name.

    Raises:
        UserError: The inputs have different channels or equal names, or the options contradict the inputs.
    """
    _check_inputs(inputs)
    final_names = _final_names(inputs, options)
    tables: list[dict[int, int]] = []
    regions: dict[str, set[int]] = {name: set() for name in _outer_first(inputs, final_names)}
    painted: dict[str, int] = {}
    next_value = 1
    for dataset in inputs:
        kept = {name: values for name, values in dataset.regions.items() if name in final_names}
        explained = sorted({value for values in kept.values() for value in values})
        table = {value: next_value + index for index, value in enumerate(explained)}
        next_value += len(explained)
        for name, values in kept.items():
            regions[final_names[name]].update(table[value] for value in values)
            if dataset.painted[name] in values:
                painted.setdefault(final_names[name], table[dataset.painted[name]])
        deselected = {value for values in dataset.regions.values() for value in values} - set(explained)
        tables.append({0: 0} | table | dict.fromkeys(deselected, 0))
    ignore_label = next_value if any(dataset.ignore_label is not None for dataset in inputs) else None
    for dataset, table in zip(inputs, tables, strict=True):
        if dataset.ignore_label is not None and ignore_label is not None:
            table[dataset.ignore_label] = ignore_label
    partial_labels = PartialLabels(regions, _final_sources(inputs, final_names, options.exceptions), ignore_label)
    return MergePlan(
        partial_labels=partial_labels,
        regions_class_order=_painting_order(regions, painted),
        value_tables=tuple(MappingProxyType(table) for table in tables),
    )


def read_exceptions_file(path: Path | str) -> dict[str, list[str]]:
    """Reads per-case exceptions: a JSON object ``{"<source>/<case>": ["<class>", ...]}``.

    Raises:
        UserError: The file has another form.
    """
    content: dict[str, list[str]] = read_json(path, mapping_of(NAMES))
    return content


def _check_inputs(inputs: Sequence[InputDataset]) -> None:
    first = inputs[0]
    for dataset in inputs[1:]:
        if [name.casefold() for name in dataset.channels] != [name.casefold() for name in first.channels]:
            raise UserError(
                f"Expected the same channels in all datasets, but {first.folder.name} has {', '.join(first.channels)} "
                f"and {dataset.folder.name} has {', '.join(dataset.channels)}; merge only datasets of one kind."
            )
    for what, names in (
        ("source", [name for dataset in inputs for name in dataset.sources]),
        ("case", [case.identifier for dataset in inputs for case in dataset.cases]),
    ):
        repeated = [name for name, count in Counter(names).items() if count > 1]
        if repeated:
            raise UserError(
                f"The {what} name(s) {', '.join(repeated[:5])} occur in more than one dataset, or for training and for "
                "testing; give the source another name with NAME=DATASET, or rename the case."
            )


def _final_names(inputs: Sequence[InputDataset], options: MergeOptions) -> dict[str, str]:
    """Class ``<source>/<class>`` -> its name in the merged dataset; deselected classes are absent."""
    number_of_inputs = Counter(name for dataset in inputs for name in dataset.regions)
    known = dict.fromkeys(number_of_inputs)
    members = [member for classes in options.share.values() for member in classes]
    # Only inputs that are collections themselves can meet here: their shared classes carry no source name.
    _refuse_equal_names([name for name, count in number_of_inputs.items() for _ in range(count) if name not in members])
    for option, names in (("--select", options.select), ("--share", members), ("--rename", options.rename)):
        unknown = [name for name in names if name not in known]
        if unknown:
            raise UserError(f"{option} names {', '.join(unknown)}, but the classes are {', '.join(known)}.")
    kept = _selected(inputs, options.select, known)
    for option, names in (("--share", members), ("--rename", options.rename)):
        lost = [name for name in names if name not in kept]
        if lost:
            raise UserError(f"{option} names {', '.join(lost)}, which --select leaves out; select them too.")
    repeated = [name for name, count in Counter([*members, *options.rename]).items() if count > 1]
    if repeated:
        raise UserError(f"{', '.join(repeated)} gets two new names from --share and --rename; give it one.")
    final_names = {name: options.rename.get(name, name) for name in kept}
    _refuse_equal_names([*(final_names[name] for name in kept if name not in members), *options.share])
    for new_name, classes in options.share.items():
        final_names.update(dict.fromkeys(classes, new_name))
    return final_names


def _refuse_equal_names(names: Sequence[str]) -> None:
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise UserError(
            f"The class name(s) {', '.join(repeated)} would be there twice; use --share NAME=CLASS,CLASS if they are "
            "to be one class, or other names."
        )
    reserved = [name for name in names if name in ("background", "ignore", "")]
    if reserved:
        raise UserError(f"A class cannot be called {reserved[0]!r}; choose another name.")


def _selected(inputs: Sequence[InputDataset], select: Sequence[str], known: Iterable[str]) -> list[str]:
    if not select:
        return list(known)
    annotating = {
        name: {source for dataset in inputs for source, entry in dataset.sources.items() if name in entry.classes}
        for name in known
    }
    touched = {source for name in select for source in annotating[name]}
    return [name for name in known if name in select or not annotating[name] & touched]


def _outer_first(inputs: Sequence[InputDataset], final_names: Mapping[str, str]) -> list[str]:
    """Final class names in order of appearance, but a class after every class that contains it in some input.

    nnU-Net paints in this order, so the tumour stays visible on the liver.
    """
    waiting = list(dict.fromkeys(final_names[n] for dataset in inputs for n in dataset.regions if n in final_names))
    containers: dict[str, set[str]] = {name: set() for name in waiting}
    for dataset in inputs:
        values: dict[str, set[int]] = {}
        for name, own_values in dataset.regions.items():
            if name in final_names:
                values.setdefault(final_names[name], set()).update(own_values)
        for inner, inner_values in values.items():
            containers[inner].update(outer for outer, outer_values in values.items() if outer_values > inner_values)
    order: list[str] = []
    while waiting:
        # Two inputs may contradict each other (each class contains the other one); then appearance decides.
        free = (name for name in waiting if not containers[name] & set(waiting))
        name = next(free, waiting[0])
        waiting.remove(name)
        order.append(name)
    return order


def _painting_order(regions: Mapping[str, set[int]], painted: Mapping[str, int]) -> tuple[int, ...]:
    """The value that stands for each class in a single label map.

    The source's own choice where it belongs to the class; else the value that the fewest classes share.
    """
    sharing = Counter(value for values in regions.values() for value in values)
    return tuple(
        painted.get(name, min(values, key=lambda value: (sharing[value], value))) for name, values in regions.items()
    )


def _final_sources(
    inputs: Sequence[InputDataset], final_names: Mapping[str, str], exceptions: Mapping[str, Sequence[str]]
) -> dict[str, Source]:
    lacking = _read_exceptions(inputs, exceptions)
    sources: dict[str, Source] = {}
    for dataset in inputs:
        for name, source in dataset.sources.items():
            classes = tuple(dict.fromkeys(final_names[c] for c in source.classes if c in final_names))
            if not classes:
                raise UserError(f"Source {name} is left without a class; select one of its classes or leave it out.")
            final_exceptions: dict[str, tuple[str, ...]] = {}
            for case in source.cases:
                missing = [*source.exceptions.get(case, ()), *lacking.pop(case, ())]
                names = tuple(dict.fromkeys(final_names[c] for c in missing if c in final_names))
                if names:
                    final_exceptions[case] = names
            sources[name] = Source(classes, source.cases, MappingProxyType(final_exceptions))
    return sources


def _read_exceptions(
    inputs: Sequence[InputDataset], exceptions: Mapping[str, Sequence[str]]
) -> dict[str, tuple[str, ...]]:
    """Merged case name -> full names of the classes that it lacks."""
    training = ((dataset, case) for dataset in inputs for case in dataset.cases if case.split == "train")
    cases = {f"{case.source}/{case.own_name}": (dataset, case) for dataset, case in training}
    lacking: dict[str, tuple[str, ...]] = {}
    for key, names in exceptions.items():
        if key not in cases:
            raise UserError(
                f"The exceptions name case {key!r}, but there is no such <source>/<case>; cases are called like "
                f"{next(iter(cases))}."
            )
        dataset, case = cases[key]
        classes = dataset.sources[case.source].classes
        full_names = [name if name in classes else f"{case.source}/{name}" for name in names]
        unknown = [name for name in full_names if name not in classes]
        if unknown:
            raise UserError(
                f"The exceptions say that case {key!r} lacks {', '.join(unknown)}, but its source annotates "
                f"{', '.join(classes)}."
            )
        lacking[case.identifier] = tuple(full_names)
    return lacking
