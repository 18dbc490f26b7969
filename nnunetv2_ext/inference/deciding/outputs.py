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
from nnunetv2_ext.labels.label_tree import BACKGROUND, LabelTree
from nnunetv2_ext.labels.label_tree import SECTION as TREE
from nnunetv2_ext.labels.partial_labels import SECTION as SOURCES
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

    Raises:
        UserError: Two names give the same file name.
    """

    kind: str
    channels: tuple[int, ...] | None
    maps: tuple[OutputMap, ...]

    def __post_init__(self) -> None:
        """Refuses maps that would share a file."""
        names: dict[str, str] = {}
        for output in self.maps:
            path = str(self.path_of("case", output, ""))
            if path in names:
                raise UserError(
                    f"The names {names[path]!r} and {output.name!r} give the same file name "
                    f"{path.removeprefix('case/')!r}; choose one of them with --classes."
                )
            names[path] = output.name

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
    level: int | None = None,
    nodes: Collection[str] | None = None,
) -> OutputPlan:
    """Decides what to compute and what to write.

    Args:
        dataset_json: The model's dataset.json; ``partial_labels`` in it names the sources, ``label_tree`` the tree.
        class_names: Classes in the order of the output channels.
        painted_values: Integer of every foreground class in the merged map.
        has_regions: Whether every class has an output of its own (sigmoid). Then outputs of classes that nobody asked
            for are not computed. A softmax compares all classes: there, all are computed and filtered afterwards.
        kind: One of `OUTPUTS`.
        classes: Which classes to predict; all by default. Integers of the merged and per-source maps do not depend on
            this choice.
        level: For models with a label tree, see `plan_tree_outputs`.
        nodes: Likewise.

    Raises:
        UserError: A class, node or level does not exist, the choices exclude each other, or the model has no sources.
    """
    if kind not in OUTPUTS:
        raise UserError(f"Expected one of {', '.join(OUTPUTS)} as outputs, but got {kind!r}.")
    classes = None if classes is None else set(classes)
    if level is not None or nodes is not None:
        if kind != "merged" or classes is not None:
            raise UserError("Expected --level or --nodes without --outputs and --classes, but got both.")
        return plan_tree_outputs(dataset_json, level, nodes)
    if TREE in dataset_json:
        _check_tree_choice(dataset_json, kind, classes or ())
        if kind == "per_class":
            return plan_node_masks(dataset_json, classes)
        if classes is None:
            return plan_tree_outputs(dataset_json)
    chosen = dict.fromkeys(painted_values if classes is None else chosen_classes(classes, painted_values))
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
        own = {name: {label: value for value, label in enumerate(own, 1)} for name, own in _sources(dataset_json)}
        maps = [output(source, values) for source, values in own.items() if set(values) & set(chosen)]
    return OutputPlan(kind, channels, tuple(maps))


def plan_tree_outputs(
    dataset_json: Mapping[str, Any], level: int | None = None, nodes: Collection[str] | None = None
) -> OutputPlan:
    """One label map in the integers of a label tree: leaves, a level of the tree, or chosen nodes.

    Args:
        dataset_json: The model's dataset.json, with ``label_tree``.
        level: Replace leaves by their ancestors at this level (1 for the children of the root); shallower leaves stay.
        nodes: Only these nodes, leaves or inner ones; where they contain each other the deepest one is written.

    Returns:
        A merged map. In its statistics an inner node holds everything below it.

    Raises:
        UserError: The model has no label tree; both a level and nodes are asked for; no node is asked for, or one that
            does not exist.
    """
    if TREE not in dataset_json:
        raise UserError(
            f"Expected a model with a label tree for --level and --nodes, but its dataset.json has no {TREE!r}; "
            "predict without them."
        )
    if level is not None and nodes is not None:
        raise UserError("Expected either --level or --nodes, but got both.")
    if nodes is not None and not nodes:
        raise UserError("Expected at least one node for --nodes, but got none.")
    tree = LabelTree.from_dataset_json(dataset_json)
    table = tree.at_level(len(tree) if level is None else level) if nodes is None else tree.at_nodes(nodes)
    paint = tuple((leaf, int(table[leaf])) for leaf in map(tree.value, tree.leaves()))
    painted = {value for _, value in paint}
    parts = {}
    for name in tree if nodes is None else nodes:
        below = {tree.value(node) for node in (name, *tree.descendants(name))} & painted
        if below and tree.value(name):
            parts[tree.value(name)] = tuple(sorted(below))
    # Names of the painted integers, and of the nodes that are made of them.
    names = {value: tree.names[value] for value in sorted(parts)}
    return OutputPlan("merged", None, (OutputMap("", names, paint, parts),))


def plan_node_masks(dataset_json: Mapping[str, Any], leaves: Collection[str] | None = None) -> OutputPlan:
    """One mask per node; that of an inner node is everything below it, as the network decides for leaves only.

    Args:
        dataset_json: The model's dataset.json, with ``label_tree``.
        leaves: Only these; all nodes by default.

    Raises:
        UserError: One of ``leaves`` is none of the tree's, or there are none.
    """
    tree = LabelTree.from_dataset_json(dataset_json)
    names = [name for name in tree if name != BACKGROUND]
    if leaves is not None:
        names = chosen_classes(leaves, [name for name in tree.leaves() if name != BACKGROUND])
    maps = [OutputMap(name, {1: name}, tuple((tree.value(leaf), 1) for leaf in tree.leaves(name))) for name in names]
    return OutputPlan("per_class", None, tuple(maps))


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


def _sources(dataset_json: Mapping[str, Any]) -> Iterable[tuple[str, tuple[str, ...]]]:
    if SOURCES not in dataset_json:
        raise UserError(
            "Expected a model of several source datasets for per_source outputs, but its dataset.json has no "
            f"{SOURCES!r}; use merged or per_class."
        )
    sources = PartialLabels.from_dataset_json(dataset_json).sources
    return [(name, source.classes) for name, source in sources.items()]


def _check_tree_choice(dataset_json: Mapping[str, Any], kind: str, classes: Collection[str]) -> None:
    """Refuses maps per source, and inner nodes as classes: their channels hold no prediction."""
    if kind == "per_source":
        raise UserError(
            "Expected merged or per_class outputs for a model with a label tree, whose sources share the nodes, but "
            "got per_source; choose what to write with --nodes."
        )
    inner = [name for name in LabelTree.from_dataset_json(dataset_json).inner_nodes if name in classes]
    if inner:
        raise UserError(
            f"Expected leaves of the label tree for --classes, but {', '.join(inner)} consists of other nodes; write "
            f"it with --nodes {' '.join(inner)}."
        )
