"""Label maps of a model with a label tree: leaves, a level of the tree, or chosen nodes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from nnunetv2_ext.inference.output_maps import OutputMap, OutputPlan
from nnunetv2_ext.labels.label_tree import SECTION, LabelTree
from nnunetv2_ext.utilities.errors import UserError


def has_label_tree(dataset_json: Mapping[str, Any]) -> bool:
    """Whether a model's dataset.json has a label tree."""
    return SECTION in dataset_json


def plan_tree_outputs(
    dataset_json: Mapping[str, Any], level: int | None = None, nodes: Collection[str] | None = None
) -> OutputPlan:
    """One label map in the tree's own integers.

    Args:
        dataset_json: The model's dataset.json, with ``label_tree``.
        level: Replace leaves by their ancestors at this level (1 for the children of the root); shallower leaves stay.
        nodes: Only these nodes, leaves or inner ones; where they contain each other the deepest one is written.

    Returns:
        A merged map. In its statistics an inner node holds everything below it.

    Raises:
        UserError: The model has no label tree; both a level and nodes are asked for; a node does not exist.
    """
    if not has_label_tree(dataset_json):
        raise UserError(
            f"Expected a model with a label tree for --level and --nodes, but its dataset.json has no {SECTION!r}; "
            "predict without them."
        )
    if level is not None and nodes is not None:
        raise UserError("Expected either --level or --nodes, but got both.")
    tree = LabelTree.from_dataset_json(dataset_json)
    if nodes is not None:
        table = tree.at_nodes(nodes)
    elif level is not None:
        table = tree.at_level(level)
    else:
        table = tree.at_level(len(tree))
    leaves = [tree.value(name) for name in tree.leaves()]
    paint = tuple((leaf, int(table[leaf])) for leaf in leaves)
    painted = {value for _, value in paint}
    chosen = set(nodes) if nodes is not None else set(tree)
    parts = {}
    for name in tree:
        below = {tree.value(node) for node in (name, *tree.descendants(name))} & painted
        if name in chosen and below and tree.value(name):
            parts[tree.value(name)] = tuple(sorted(below))
    # Names of the painted integers, and of the nodes that are made of them.
    names = {value: tree.names[value] for value in sorted(parts)}
    return OutputPlan("merged", None, (OutputMap("", names, paint, parts),))
