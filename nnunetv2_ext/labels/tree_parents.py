"""Which node of a label tree stands below which, read from the forms in which trees are written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.validation import shown

#: No anatomy is deeper; every node knows its path.
DEEPEST = 100
Nested = Mapping[str, Any]
#: Name of a node -> name of its parent, None for children of the root.
Parents = Mapping[str, str | None]


class LabelTreeError(UserError):
    """A label tree contradicts itself, or an annotation contradicts the tree."""


def parents_from_nested(nested: Nested, labels: Mapping[str, int] | None) -> Parents:
    """See `LabelTree.from_nested`."""
    parents: dict[str, str | None] = {}
    for name, parent in _nested_nodes(nested, ()):
        if name in parents:
            raise two_parents(name, parents[name], parent)
        parents[name] = parent
    return parents if labels is None else _in_order_of(labels, parents)


def parents_from_paths(paths: Iterable[Collection[str]]) -> Parents:
    """See `LabelTree.from_paths`."""
    parents: dict[str, str | None] = {}
    for path in paths:
        parent: str | None = None
        if len(set(path)) < len(path):
            name = next(name for name, count in Counter(path).items() if count > 1)
            raise LabelTreeError(f"Node {name!r} stands below itself in the path {' > '.join(path)}.")
        for name in path:
            if name in parents and parents[name] != parent:
                raise two_parents(name, parents[name], parent)
            parents.setdefault(name, parent)
            parent = name
    return parents


def _nested_nodes(nested: Nested, above: tuple[str, ...]) -> Iterator[tuple[str, str | None]]:
    for name, below in nested.items():
        if name in above:
            raise LabelTreeError(f"Node {name!r} stands below itself: {' > '.join((*above, name))}.")
        yield name, above[-1] if above else None
        if below is None:
            continue
        if not isinstance(below, Mapping) or len(above) == DEEPEST:
            raise LabelTreeError(
                f"Expected the children of {name!r} as a mapping, at most {DEEPEST} levels deep, but found "
                f"{shown(below)}."
            )
        yield from _nested_nodes(below, (*above, name))


def _in_order_of(labels: Mapping[str, int], parents: Mapping[str, str | None]) -> dict[str, str | None]:
    missing = sorted(set(parents) - set(labels))
    strange = sorted(set(labels) - set(parents))
    if missing or strange:
        lacking = [("labels", missing), ("tree", strange)]
        found = "; ".join(f"the {where} lack{'s' * (where == 'tree')} {', '.join(n)}" for where, n in lacking if n)
        raise LabelTreeError(f"Expected the same names in the labels and in the label tree, but {found}.")
    # Lists are the regions of nnU-Net, which a tree's own nodes make superfluous.
    strange = [name for name, value in labels.items() if isinstance(value, bool) or not isinstance(value, int)]
    if strange:
        raise LabelTreeError(
            f"Expected one integer for every node of the label tree, but {strange[0]!r} has {labels[strange[0]]!r} "
            "as its label; an inner node needs an integer of its own, not the list of its parts."
        )
    order = sorted(labels, key=lambda name: labels[name])
    if [labels[name] for name in order] != list(range(len(order))):
        raise LabelTreeError(
            f"Expected the integers 0 to {len(order) - 1}, each once, for the nodes of the label tree, but found "
            f"{shown(sorted(labels.values()))}."
        )
    return {name: parents[name] for name in order}


def two_parents(name: str, first: str | None, second: str | None) -> LabelTreeError:
    """The sentence about a name that stands twice."""
    if first == second:
        return LabelTreeError(f"The name {name!r} stands more than once below {first or 'the root'!r}.")
    return LabelTreeError(
        f"Node {name!r} stands below {first or 'the root'!r} and below {second or 'the root'!r}, but a node has one "
        "parent; rename one of them."
    )
