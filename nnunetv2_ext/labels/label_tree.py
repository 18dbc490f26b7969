"""Label trees: which structure is part of which, and what a voxel's label leaves possible.

A tree has an implicit root (the whole image), inner nodes (``bones``) and leaves (``rib_left_1``). Every node has an
integer that is at once its value in a label map, its entry under ``labels`` in the dataset.json and its channel in the
network's output. The integers are stable: `LabelTree.union` appends nodes and never renumbers.

Source: Becker et al., "SALT: Introducing a framework for hierarchical segmentations in medical imaging using label
trees", Scientific Reports 15, 44140 (2025), https://doi.org/10.1038/s41598-025-31639-1.

Example:
    >>> tree = LabelTree.from_nested({"background": {}, "body": {"bones": {"rib": {}, "hip": {}}, "body_other": {}}})
    >>> tree.path("rib")
    ('body', 'bones', 'rib')
    >>> tree.leaves("bones")
    ('rib', 'hip')
    >>> [tree.value(name) for name in tree.leaves()]
    [0, 3, 4, 5]
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnunetv2_ext.labels.dataset_json import HIGHEST_LABEL, dataset_json_shape
from nnunetv2_ext.labels.tree_parents import (
    DEEPEST,
    LabelTreeError,
    Nested,
    Parents,
    parents_from_nested,
    parents_from_paths,
    two_parents,
)
from nnunetv2_ext.resources import resource_folder
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.files import read_json
from nnunetv2_ext.utilities.names import is_label_name
from nnunetv2_ext.utilities.validation import anything, check, mapping_of

BACKGROUND = "background"
SECTION = "label_tree"


class LabelTree:
    """An immutable tree of named label values.

    Args:
        parents: Node name -> name of its parent, or ``None`` for a child of the root. The position in the mapping is
            the node's integer.
        check_single_children: Refuse nodes with exactly one child. `complete` repairs such a tree.

    Attributes:
        names: Node names; the index is the node's integer.

    Raises:
        LabelTreeError: There is no node, one without a name, one whose parent is not there or that is its own ancestor,
            or a node (or the root) has exactly one child.
    """

    def __init__(self, parents: Parents, *, check_single_children: bool = True) -> None:
        if not 0 < len(parents) <= HIGHEST_LABEL + 1:
            raise LabelTreeError(
                f"Expected a label tree of 1 to {HIGHEST_LABEL + 1} nodes, but found {len(parents) or 'none'}; write "
                "them below each other."
            )
        self.names: tuple[str, ...] = tuple(parents)
        self._parents: dict[str, str | None] = dict(parents)
        self._values = {name: value for value, name in enumerate(self.names)}
        self._children: dict[str | None, list[str]] = {None: []}
        for name, parent in self._parents.items():
            if not is_label_name(name):
                raise LabelTreeError(
                    f"Expected a name of printable characters for every node of the label tree, but found {name!r}."
                )
            if parent is not None and parent not in self._parents:
                raise LabelTreeError(
                    f"Node {name!r} names the parent {parent!r}, which is not in the tree; add it or correct the name."
                )
            self._children.setdefault(parent, []).append(name)
        self._paths = self._walk()
        if check_single_children:
            self._refuse_single_children()

    @classmethod
    def from_nested(
        cls, nested: Nested, labels: Mapping[str, int] | None = None, *, check_single_children: bool = True
    ) -> LabelTree:
        """Builds a tree from nested mappings, ``{"body": {"bones": {"rib": {}, "hip": {}}}}``.

        Args:
            nested: Node name -> mapping of its children; a leaf has ``{}`` or ``None``.
            labels: Node name -> integer, 0 to nodes - 1. Without it nodes are numbered from top to bottom in the
                order of the mapping, parents before their children.
            check_single_children: As in the constructor.

        Raises:
            LabelTreeError: A name stands below two parents or itself, or ``labels`` and the tree disagree.
        """
        return cls(parents_from_nested(nested, labels), check_single_children=check_single_children)

    @classmethod
    def from_paths(cls, paths: Iterable[Collection[str]], *, check_single_children: bool = True) -> LabelTree:
        """Builds a tree from paths that run from below the root to a node, as in SALT's ``tree-labels.txt``.

        Raises:
            LabelTreeError: A name stands below two parents or below itself.
        """
        return cls(parents_from_paths(paths), check_single_children=check_single_children)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> LabelTree:
        """Builds a tree from JSON: nested, ``{"labels": {...}, "tree": nested}``, or a dataset.json."""
        if isinstance(content.get("labels"), dict) and isinstance(content.get("tree"), dict):
            return cls.from_nested(content["tree"], content["labels"])
        if isinstance(content.get(SECTION), dict):
            return cls.from_dataset_json(content)
        return cls.from_nested(content)

    @classmethod
    def from_file(cls, name_or_path: str | Path) -> LabelTree:
        """Reads a JSON file, or one of the trees that ship with the package (``label_orders/trees``) by its name.

        Raises:
            UserError: There is no such file or tree.
        """
        path = Path(name_or_path)
        shipped = resource_folder("label_orders") / "trees"
        if not path.is_file() and path.suffix != ".json":
            path = shipped / f"{name_or_path}.json"
        if not path.is_file():
            known = ", ".join(sorted(file.stem for file in shipped.glob("*.json")))
            raise UserError(f"Expected a label tree file or one of {known}, but found no {name_or_path}.")
        # Plain JSON readers drop one of two nodes of one name silently.
        content = read_json(path, mapping_of(anything, at_least=1), refuse_repeated_names=True)
        try:
            return cls.from_json(content)
        except LabelTreeError as error:
            raise type(error)(f"{path.name}: {error}") from None

    @classmethod
    def from_dataset_json(cls, dataset_json: Mapping[str, Any]) -> LabelTree:
        """Reads ``label_tree`` and ``labels`` of a dataset.json; a `UserError` where they are not there or disagree."""
        nested = check(dataset_json, dataset_json_shape(), "the dataset.json").get(SECTION)
        if not nested:
            raise UserError(
                f"Expected a dataset.json with a {SECTION!r} section, but found none; add one (docs/label_trees.md), "
                "convert a SALT folder, or use a trainer for plain datasets."
            )
        labels = check(dataset_json, dataset_json_shape("labels"), "the dataset.json")["labels"]
        numbered = {name: value for name, value in labels.items() if name != "ignore"}
        tree = cls.from_nested(nested, numbered)
        if tree.names[0] != BACKGROUND or tree.children(BACKGROUND) or tree.parent(BACKGROUND) is not None:
            raise LabelTreeError(f"Expected {BACKGROUND!r} with value 0 as a leaf directly below the root of the tree.")
        return tree

    def union(self, other: LabelTree) -> LabelTree:
        """This tree with the nodes of ``other`` appended; the nodes of this tree keep their integers.

        Raises:
            LabelTreeError: A node has another parent in ``other``, or comes to stand below itself.
        """
        parents = dict(self._parents)
        for name, parent in other._parents.items():
            if name in parents and parents[name] != parent:
                raise two_parents(name, parents[name], parent)
            parents.setdefault(name, parent)
        return LabelTree(parents, check_single_children=False)

    def complete(self) -> LabelTree:
        """This tree with a sibling ``<parent>_other`` appended wherever a node has a single child.

        What is ``mediastinum`` but not its only child ``pericardium`` needs a leaf. A single child of the root gets the
        sibling ``background``, which a dataset.json has first: start from a tree that has it.

        Raises:
            LabelTreeError: The name of a sibling is taken.
        """
        parents = dict(self._parents)
        for parent, children in self._children.items():
            if len(children) == 1:
                name = BACKGROUND if parent is None else f"{parent}_other"
                if name in parents:
                    raise LabelTreeError(
                        f"Node {parent or 'root'!r} has the single child {children[0]!r}, and the name {name!r} of the "
                        "sibling it needs is taken by another node; rename that one."
                    )
                parents[name] = parent
        return LabelTree(parents)

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LabelTree) and list(self._parents.items()) == list(other._parents.items())

    def __hash__(self) -> int:
        return hash(tuple(self._parents.items()))

    def __repr__(self) -> str:
        return f"LabelTree({len(self.inner_nodes)} inner nodes, {len(self.leaves())} leaves)"

    def value(self, name: str) -> int:
        """The node's integer: label value, entry of ``labels``, output channel."""
        self._check_known((name,))
        return self._values[name]

    def parent(self, name: str) -> str | None:
        """The node's parent, or ``None`` for a child of the root."""
        self._check_known((name,))
        return self._parents[name]

    def children(self, name: str | None = None) -> tuple[str, ...]:
        """The node's children (of the root: ``None``), in ascending integers."""
        if name is not None:
            self._check_known((name,))
        return tuple(self._children.get(name, ()))

    def path(self, name: str) -> tuple[str, ...]:
        """From the child of the root down to the node itself."""
        self._check_known((name,))
        return self._paths[name]

    def ancestors(self, name: str) -> tuple[str, ...]:
        """All nodes above, from the child of the root downwards; without the node itself."""
        return self.path(name)[:-1]

    def descendants(self, name: str | None = None) -> tuple[str, ...]:
        """All nodes below (of the root: every node), parents before their children; without the node itself."""
        found: list[str] = []
        waiting = list(reversed(self.children(name)))
        while waiting:
            node = waiting.pop()
            found.append(node)
            waiting.extend(reversed(self.children(node)))
        return tuple(found)

    def siblings(self, name: str) -> tuple[str, ...]:
        """The other children of the node's parent, in ascending integers."""
        return tuple(node for node in self.children(self.parent(name)) if node != name)

    def leaves(self, name: str | None = None) -> tuple[str, ...]:
        """Leaves below the node, in ascending integers; a leaf is its own only leaf. All leaves for ``None``."""
        nodes = self.descendants(name) if name is None else (name, *self.descendants(name))
        return tuple(sorted((node for node in nodes if not self.children(node)), key=self.value))

    def depth(self, name: str) -> int:
        """1 for a child of the root."""
        return len(self.path(name))

    @cached_property
    def inner_nodes(self) -> tuple[str, ...]:
        """All nodes that have children, in ascending integers."""
        return tuple(name for name in self.names if self.children(name))

    def parent_values(self) -> npt.NDArray[np.int64]:
        """Every node's parent as an integer, -1 for children of the root; shape (nodes,)."""
        return np.array([-1 if parent is None else self._values[parent] for parent in self._parents.values()], np.int64)

    def leaf_mask(self, name: str | None = None) -> npt.NDArray[np.bool_]:
        """Which nodes are leaves below the given node; shape (nodes,)."""
        mask = np.zeros(len(self), np.bool_)
        mask[[self._values[leaf] for leaf in self.leaves(name)]] = True
        return mask

    def at_level(self, level: int) -> npt.NDArray[np.int64]:
        """A look-up table that replaces every node deeper than ``level`` by its ancestor at that level.

        Args:
            level: 1 keeps the children of the root, 2 their children, and so on; shallower leaves stay.

        Returns:
            Shape (nodes,): use as ``table[label_map]``.

        Raises:
            UserError: The level is less than 1.
        """
        if level < 1:
            raise UserError(f"Expected a level of at least 1 (the children of the root), but got {level}.")
        return np.array([self._values[path[:level][-1]] for path in map(self.path, self.names)], np.int64)

    def at_nodes(self, names: Collection[str]) -> npt.NDArray[np.int64]:
        """A look-up table that keeps only the given nodes: each voxel gets the deepest of them above it, else 0.

        Returns:
            Shape (nodes,): use as ``table[label_map]``.
        """
        self._check_known(names)
        chosen = set(names)
        kept = [[node for node in path if node in chosen] for path in map(self.path, self.names)]
        return np.array([self._values[nodes[-1]] if nodes else 0 for nodes in kept], np.int64)

    def to_nested(self) -> dict[str, Any]:
        """Nested dictionaries; with `to_labels` they hold the whole tree."""

        def below(name: str | None) -> dict[str, Any]:
            return {child: below(child) for child in self.children(name)}

        return below(None)

    def to_labels(self) -> dict[str, int]:
        """Node name -> integer: the ``labels`` section of a dataset.json."""
        return dict(self._values)

    def _check_known(self, names: Iterable[str]) -> None:
        unknown = [name for name in names if name not in self._values]
        if unknown:
            some = ", ".join(self.names[:8])
            raise LabelTreeError(
                f"The label tree has no node {', '.join(map(repr, unknown))}; it has {some}"
                f"{' and more' if len(self.names) > 8 else ''}."
            )

    def _walk(self) -> dict[str, tuple[str, ...]]:
        """Paths of all nodes that the root reaches; in a cycle are those that it does not."""
        paths: dict[str, tuple[str, ...]] = {}
        waiting: list[tuple[str, tuple[str, ...]]] = [(name, ()) for name in self._children[None]]
        while waiting:
            name, above = waiting.pop()
            if len(above) == DEEPEST:
                raise LabelTreeError(f"Expected a label tree of at most {DEEPEST} levels, but {name!r} is deeper.")
            paths[name] = (*above, name)
            waiting.extend((child, paths[name]) for child in self._children.get(name, ()))
        lost = [name for name in self.names if name not in paths]
        if lost:
            circle = dict.fromkeys(lost[:1])
            while (parent := self._parents[next(reversed(circle))]) is not None and parent not in circle:
                circle[parent] = None
            chain = " < ".join(list(circle)[:DEEPEST])
            raise LabelTreeError(f"The root does not reach {chain}: this chain of parents runs in a circle.")
        return paths

    def _refuse_single_children(self) -> None:
        for parent, children in self._children.items():
            if len(children) == 1:
                raise LabelTreeError(
                    f"Node {parent or 'root'!r} has the single child {children[0]!r}; give it a sibling "
                    f"(for example {f'{parent}_other' if parent else BACKGROUND!r}) or leave one of the two out."
                )
