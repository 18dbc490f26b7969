"""Label maps of a model with a label tree: leaves, a level of the tree, chosen nodes, or one mask per node."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from nnunetv2_ext.inference.deciding.outputs import OutputMap, OutputPlan, chosen_classes, refuse_equal_paths
from nnunetv2_ext.labels.label_tree import BACKGROUND, SECTION, LabelTree
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
        UserError: The model has no label tree; both a level and nodes are asked for; no node is asked for, or one that
            does not exist.
    """
    if not has_label_tree(dataset_json):
        raise UserError(
            f"Expected a model with a label tree for --level and --nodes, but its dataset.json has no {SECTION!r}; "
            "predict without them."
        )
    if level is not None and nodes is not None:
        raise UserError("Expected either --level or --nodes, but got both.")
    if nodes is not None and not nodes:
        raise UserError("Expected at least one node for --nodes, but got none.")
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


def plan_node_masks(dataset_json: Mapping[str, Any], leaves: Collection[str] | None = None) -> OutputPlan:
    """One mask per node; that of an inner node is everything below it, as the network decides for leaves only.

    Args:
        dataset_json: The model's dataset.json, with ``label_tree``.
        leaves: Only these; all nodes by default.

    Raises:
        UserError: One of ``leaves`` is none of the tree's, or there are none.
    """
    tree = LabelTree.from_dataset_json(dataset_json)
    chosen = [name for name in tree if name != BACKGROUND]
    if leaves is not None:
        chosen = chosen_classes(leaves, [name for name in tree.leaves() if name != BACKGROUND])
    maps = [OutputMap(name, {1: name}, tuple((tree.value(leaf), 1) for leaf in tree.leaves(name))) for name in chosen]
    refuse_equal_paths("per_class", maps)
    return OutputPlan("per_class", None, tuple(maps))


def check_tree_choice(dataset_json: Mapping[str, Any], outputs: str, classes: Collection[str] | None) -> None:
    """Checks what is asked of a model with a label tree beside a level and nodes.

    Raises:
        UserError: Maps per source, or inner nodes as classes: their channels hold no prediction.
    """
    if outputs == "per_source":
        raise UserError(
            "Expected merged or per_class outputs for a model with a label tree, whose sources share the nodes, but "
            "got per_source; choose what to write with --nodes."
        )
    inner = [name for name in LabelTree.from_dataset_json(dataset_json).inner_nodes if name in (classes or ())]
    if inner:
        raise UserError(
            f"Expected leaves of the label tree for --classes, but {', '.join(inner)} consists of other nodes; write "
            f"it with --nodes {' '.join(inner)}."
        )
