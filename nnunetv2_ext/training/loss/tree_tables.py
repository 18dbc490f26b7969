"""Look-up tables of the label-tree loss for one set of annotated nodes.

A source that annotates ``liver`` alone says nothing about how the bones are divided. Below a node without annotated
descendants the tree may be cut off: the conditionals down there cancel from every probability that the source's labels
speak of, and their gradient is zero. What remains, the *pruned tree*, has one row per node that matters, and the cost
of a sample follows the number of rows, not the size of the whole tree.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nnunetv2_ext.labels.label_tree import BACKGROUND, LabelTree
from nnunetv2_ext.labels.tree_annotation import determined_nodes, possible_leaves

# Row that stands for "none" in the tables.
NONE = -1


@dataclass(frozen=True)
class Level:
    """The rows of one depth of the pruned tree and the rows of their parents."""

    rows: slice
    parents: Int[Tensor, " rows"]


@dataclass(frozen=True)
class TreeTables:
    """Everything that the loss looks up, on one device.

    Rows are the nodes of the pruned tree, level by level, siblings side by side. Columns are label values, 0 to
    nodes - 1; the last column stands for the ignore label.

    Attributes:
        channels: Network channel of each row.
        groups: Sibling group of each row.
        group_count: Number of sibling groups.
        levels: Depths below the first, top to bottom.
        counts: Whether voxels of a label value count at all (ignored and impossible ones do not); shape (columns,).
        single: The row whose leaves are exactly what the label leaves possible, or `NONE`; shape (columns,).
        single_path: Rows from the first depth down to ``single``, padded by `NONE`; shape (depth, columns).
        several: Index into ``members``, or `NONE` where ``single`` says it all; shape (columns,).
        members: For labels that leave several rows possible: which ones; shape (such labels, rows).
        on_path: Rows of the annotated nodes that a label value belongs to, padded by `NONE`; shape (depth, columns).
        reference: 1 where ``on_path`` has the row; shape (rows, columns).
        dice_rows: Rows that the Dice counts.
        dice_nodes: Node integer of each of them.
    """

    channels: Int[Tensor, " rows"]
    groups: Int[Tensor, " rows"]
    group_count: int
    levels: tuple[Level, ...]
    counts: Bool[Tensor, " columns"]
    single: Int[Tensor, " columns"]
    single_path: Int[Tensor, "depth columns"]
    several: Int[Tensor, " columns"]
    members: Bool[Tensor, "several rows"]
    on_path: Int[Tensor, "depth columns"]
    reference: Float[Tensor, "rows columns"]
    dice_rows: Int[Tensor, " counted"]
    dice_nodes: Int[Tensor, " counted"]


def build_tables(
    tree: LabelTree, annotated: Collection[str], device: torch.device, *, dice_background: bool
) -> TreeTables:
    """Builds the tables of a source that annotates the given nodes (at least one).

    Args:
        tree: The label tree.
        annotated: The annotated nodes M.
        device: Where the tables are to live.
        dice_background: Whether the Dice counts the node ``background``.
    """
    rows = _pruned_rows(tree, annotated)
    row_of = {name: row for row, name in enumerate(rows)}
    parents = [tree.parent(name) for name in rows]
    group_of = {parent: group for group, parent in enumerate(dict.fromkeys(parents))}
    row_leaves = [frozenset(tree.leaves(name)) for name in rows]
    known = determined_nodes(tree, annotated)

    columns = len(tree) + 1
    counts = torch.zeros(columns, dtype=torch.bool)
    single = torch.full((columns,), NONE)
    several = torch.full((columns,), NONE)
    members: list[list[bool]] = []
    paths: list[list[int]] = [[] for _ in range(columns)]
    kinds: dict[frozenset[str], tuple[int, int]] = {}
    for value, name in enumerate(tree.names):
        possible = possible_leaves(tree, name, annotated)
        if name in annotated:
            paths[value] = [row_of[node] for node in tree.path(name) if node in known]
        if not possible:
            continue
        if possible not in kinds:
            kinds[possible] = _describe(possible, row_leaves, members)
        counts[value] = True
        single[value], several[value] = kinds[possible]

    single_paths = [[] if row == NONE else [row_of[node] for node in tree.path(rows[row])] for row in single.tolist()]
    reference = torch.zeros(len(rows), columns)
    for value, path in enumerate(paths):
        reference[path, value] = 1
    counted = [name for name in rows if name in known and (dice_background or name != BACKGROUND)]
    return TreeTables(
        channels=torch.tensor([tree.value(name) for name in rows], device=device),
        groups=torch.tensor([group_of[parent] for parent in parents], device=device),
        group_count=len(group_of),
        levels=_levels(tree, rows, row_of, device),
        counts=counts.to(device),
        single=single.to(device),
        single_path=_padded(single_paths).to(device),
        several=several.to(device),
        members=torch.tensor(members, dtype=torch.bool, device=device).reshape(len(members), len(rows)),
        on_path=_padded(paths).to(device),
        reference=reference.to(device),
        dice_rows=torch.tensor([row_of[name] for name in counted], dtype=torch.long, device=device),
        dice_nodes=torch.tensor([tree.value(name) for name in counted], dtype=torch.long, device=device),
    )


def _pruned_rows(tree: LabelTree, annotated: Collection[str]) -> list[str]:
    """Children of the root and of every node with an annotated descendant, level by level, siblings side by side."""
    open_nodes = {ancestor for name in annotated for ancestor in tree.ancestors(name)}
    rows = list(tree.children())
    position = 0
    while position < len(rows):
        if rows[position] in open_nodes:
            rows.extend(tree.children(rows[position]))
        position += 1
    return rows


def _levels(tree: LabelTree, rows: list[str], row_of: dict[str, int], device: torch.device) -> tuple[Level, ...]:
    depths = [tree.depth(name) for name in rows]
    levels = []
    for depth in range(2, max(depths) + 1):
        first, last = depths.index(depth), len(depths) - depths[::-1].index(depth)
        parents = [row_of[name] for name in map(tree.parent, rows[first:last]) if name is not None]
        levels.append(Level(slice(first, last), torch.tensor(parents, device=device)))
    return tuple(levels)


def _padded(paths: list[list[int]]) -> Int[Tensor, "depth columns"]:
    """The paths as columns, filled up with `NONE`."""
    depth = max(len(path) for path in paths)
    return torch.tensor([path + [NONE] * (depth - len(path)) for path in paths]).T.contiguous()


def _describe(possible: frozenset[str], row_leaves: list[frozenset[str]], members: list[list[bool]]) -> tuple[int, int]:
    """A row with exactly these leaves, or else a new line of ``members`` with the largest rows that hold only them."""
    if possible in row_leaves:
        # The row nearest to the root: the fewest factors.
        return row_leaves.index(possible), NONE
    largest: list[bool] = []
    covered: set[str] = set()
    for leaves in row_leaves:  # parents come before their children
        inside = leaves <= possible and not leaves <= covered
        largest.append(inside)
        if inside:
            covered |= leaves
    members.append(largest)
    return NONE, len(members) - 1
