"""What the label of a voxel says about the leaves of a label tree.

A dataset annotates some nodes M of the tree. A voxel labelled n (n in M) lies in a leaf below n, but not below another
annotated node under n, because then it would carry that label. A voxel without label lies below no annotated node. The
set of leaves that remain possible is called S; the loss of the voxel is ``-log sum of p over S``.
"""

from __future__ import annotations

from collections.abc import Collection

from nnunetv2_ext.labels.label_tree import LabelTree
from nnunetv2_ext.labels.tree_parents import LabelTreeError


def possible_leaves(tree: LabelTree, label: str | None, annotated: Collection[str]) -> frozenset[str]:
    """The leaves S that a voxel's label leaves possible.

    Args:
        tree: The label tree.
        label: The node that the voxel is labelled with; ``None`` (or a node that the source does not annotate) for a
            voxel without label.
        annotated: The nodes M that the voxel's source annotates.
    """
    chosen = set(annotated)
    if label not in chosen:
        label = None
    possible = set(tree.leaves(label))
    for name in chosen if label is None else chosen.intersection(tree.descendants(label)):
        possible.difference_update(tree.leaves(name))
    return frozenset(possible)


def determined_nodes(tree: LabelTree, annotated: Collection[str]) -> frozenset[str]:
    """M, and every parent whose children are all in it: nodes whose voxels are known throughout the image."""
    known = set(annotated)
    for name in sorted(tree.inner_nodes, key=tree.depth, reverse=True):
        if all(child in known for child in tree.children(name)):
            known.add(name)
    return frozenset(known)


def check_annotation(tree: LabelTree, annotated: Collection[str], source: str) -> None:
    """Checks that the nodes that a source annotates are nodes of the tree and that each of its labels is possible.

    Raises:
        LabelTreeError: A node that the tree does not have, or a label that leaves no leaf possible.
    """
    for name in annotated:
        tree.value(name)
    for name in annotated:
        if not possible_leaves(tree, name, annotated):
            raise LabelTreeError(
                f"Source {source!r} annotates {name!r} and every part of it, so that no voxel can carry the label "
                f"{name!r} itself; leave {name!r} out of its classes, or add a leaf '{name}_other' to the tree."
            )


def unlabelled_is_possible(tree: LabelTree, annotated: Collection[str]) -> bool:
    """Whether a voxel without label can exist in a source that annotates these nodes."""
    return bool(possible_leaves(tree, None, annotated))
