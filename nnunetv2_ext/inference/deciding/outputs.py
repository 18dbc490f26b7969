"""Which label maps a prediction writes, and what their integers mean."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import Integer

from nnunetv2_ext.images.label_maps import label_type
from nnunetv2_ext.labels import PartialLabels
from nnunetv2_ext.labels.partial_labels import SECTION
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.names import file_name

#: What ``--outputs`` admits.
OUTPUTS = ("merged", "per_source", "per_class")


@dataclass(frozen=True)
class OutputMap:
    """One label map that is made of a prediction.

    Attributes:
        name: Empty for the merged map, else the source or the class.
        names: Class name of every integer but 0.
        paint: ``(channel, integer)`` pairs: voxels decided for an output channel get its integer. Where channels
            overlap, later ones overwrite earlier ones.
        parts: For classes that are made of others (inner nodes of a label tree): the integers that count as theirs in
            statistics.
    """

    name: str
    names: dict[int, str]
    paint: tuple[tuple[int, int], ...]
    parts: Mapping[int, tuple[int, ...]] = field(default_factory=dict)

    def table(self, channels: int) -> Integer[np.ndarray, " channels"]:
        """Integer of every output channel; for predictions in which a voxel belongs to one channel."""
        table = np.zeros(channels, dtype=label_type(max(self.names, default=0)))
        for channel, value in self.paint:
            table[channel] = value
        return table


@dataclass(frozen=True)
class OutputPlan:
    """All label maps of a prediction.

    Attributes:
        kind: ``"merged"``, ``"per_source"`` or ``"per_class"``.
        channels: Output channels that the network must compute, as it was trained; None for all of them.
        maps: What is written. Their channels count within ``channels``.
    """

    kind: str
    channels: tuple[int, ...] | None
    maps: tuple[OutputMap, ...]

    def path_of(self, case: str, output: OutputMap, ending: str) -> PurePosixPath:
        """Where a map of a case lies within the output folder.

        ``case`` for the merged map, ``<source>/case`` per source, ``case/<class>`` per class; a class
        ``<source>/<class>`` lies in a folder of the source there.
        """
        if self.kind == "merged":
            return PurePosixPath(case + ending)
        if self.kind == "per_source":
            return PurePosixPath(file_name(output.name), case + ending)
        *folders, last = output.name.split("/")
        return PurePosixPath(case, *map(file_name, folders), file_name(last) + ending)


def plan_outputs(
    dataset_json: Mapping[str, Any],
    class_names: Sequence[str],
    painted_values: Mapping[str, int],
    *,
    has_regions: bool,
    kind: str = "merged",
    classes: Iterable[str] | None = None,
) -> OutputPlan:
    """Decides what to compute and what to write.

    Args:
        dataset_json: The model's dataset.json; ``partial_labels`` in it names the sources.
        class_names: Classes in the order of the output channels.
        painted_values: Integer of every foreground class in the merged map.
        has_regions: Whether every class has an output of its own (sigmoid). Then outputs of classes that nobody asked
            for are not computed. A softmax compares all classes: there, all are computed and filtered afterwards.
        kind: One of `OUTPUTS`.
        classes: Which classes to predict; all by default. Integers of the merged and per-source maps do not depend on
            this choice.

    Raises:
        UserError: A class does not exist, or the model has no sources.
    """
    if kind not in OUTPUTS:
        raise UserError(f"Expected one of {', '.join(OUTPUTS)} as outputs, but got {kind!r}.")
    chosen = dict.fromkeys(painted_values if classes is None else chosen_classes(classes, painted_values))
    by_source = _sources(dataset_json) if kind == "per_source" else {}
    position = {name: channel for channel, name in enumerate(class_names)}
    channels = None
    if has_regions and len(chosen) < len(class_names):
        channels = tuple(position[name] for name in chosen)
        position = {name: channel for channel, name in enumerate(chosen)}

    def output(name: str, values: Mapping[str, int]) -> OutputMap:
        # In the order of the channels, in which nnU-Net lets later classes overwrite earlier ones.
        painted = sorted((position[label], value) for label, value in values.items() if label in chosen)
        return OutputMap(name, {values[label]: label for label in values if label in chosen}, tuple(painted))

    if kind == "merged":
        maps = [output("", painted_values)]
    elif kind == "per_class":
        maps = [output(name, {name: 1}) for name in chosen]
    else:
        own = {source: {name: value for value, name in enumerate(names, 1)} for source, names in by_source.items()}
        maps = [output(source, values) for source, values in own.items() if set(values) & set(chosen)]
    refuse_equal_paths(kind, maps)
    return OutputPlan(kind, channels, tuple(maps))


def chosen_classes(wanted: Iterable[str], available: Collection[str]) -> list[str]:
    """The classes that were asked for, in the order of the available ones.

    Raises:
        UserError: A class does not exist, or none is asked for.
    """
    wanted = set(wanted)
    unknown = sorted(wanted - set(available))
    if unknown or not wanted:
        raise UserError(
            f"Expected classes of the model ({', '.join(available)}), but got {', '.join(unknown) or 'none'}."
        )
    return [name for name in available if name in wanted]


def _sources(dataset_json: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    if SECTION not in dataset_json:
        raise UserError(
            "Expected a model of several source datasets for per_source outputs, but its dataset.json has no "
            f"{SECTION!r}; use merged or per_class."
        )
    return {name: source.classes for name, source in PartialLabels.from_dataset_json(dataset_json).sources.items()}


def refuse_equal_paths(kind: str, maps: Sequence[OutputMap]) -> None:
    """Checks that every map has a file of its own.

    Raises:
        UserError: Two names give the same file name.
    """
    plan = OutputPlan(kind, None, tuple(maps))
    paths = [str(plan.path_of("case", output, "")) for output in maps]
    first: dict[str, int] = {}
    for number, path in enumerate(paths):
        if first.setdefault(path, number) < number:
            raise UserError(
                f"The names {maps[first[path]].name!r} and {maps[number].name!r} give the same file name "
                f"{path.removeprefix('case/')!r}; choose one of them with --classes."
            )
