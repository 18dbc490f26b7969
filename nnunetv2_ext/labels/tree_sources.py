"""Which nodes of a label tree are annotated in which case of a collection."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from nnunetv2_ext.labels.label_tree import BACKGROUND, LabelTree
from nnunetv2_ext.labels.partial_labels import SECTION, PartialLabels, Source, read_sources
from nnunetv2_ext.labels.tree_annotation import check_annotation, determined_nodes, possible_leaves
from nnunetv2_ext.utilities.errors import UserError


class TreeSources(PartialLabels):
    """`PartialLabels` whose classes are the nodes of a tree.

    ``labels`` of such a collection holds every node with one integer; ``partial_labels`` says which nodes a source
    annotates, leaves or inner nodes, ``background`` included where a source annotates everything. Without
    ``partial_labels`` all cases annotate every leaf.

    Args:
        tree: The label tree.
        sources: Source name -> `Source`.
        ignore_label: Label value of voxels that count nowhere; ``None`` where there is none.

    Attributes:
        tree: The label tree.

    Raises:
        UserError: Sources, cases and tree contradict each other; a label leaves no leaf possible.
    """

    def __init__(self, tree: LabelTree, sources: Mapping[str, Source], ignore_label: int | None = None) -> None:
        self.tree = tree
        super().__init__({name: (tree.value(name),) for name in tree}, sources, ignore_label)
        for name, source in self.sources.items():
            check_annotation(tree, source.classes, name)

    @classmethod
    def from_dataset_json(cls, dataset_json: Mapping[str, Any]) -> TreeSources:
        """Reads ``labels``, ``label_tree`` and ``partial_labels`` of a dataset.json.

        Raises:
            UserError: The sections are missing or contradict each other.
        """
        tree = LabelTree.from_dataset_json(dataset_json)
        sources = read_sources(dataset_json.get(SECTION, {}))
        return cls(tree, sources, dataset_json["labels"].get("ignore"))

    def source_of(self, case: str) -> str:
        """Name of the source that a case belongs to; the same for all where the collection names no sources."""
        return super().source_of(case) if self.sources else "all"

    def annotated(self, case: str) -> npt.NDArray[np.bool_]:
        """Which nodes are annotated in a case, shape (nodes,)."""
        return super().annotated(case) if self.sources else self.tree.leaf_mask()

    def determined(self) -> DeterminedNodes:
        """The nodes whose voxels are known in a case, annotated or not: what it can be evaluated on."""
        return DeterminedNodes(self)

    def region_table(self) -> npt.NDArray[np.bool_]:
        """Which label values belong to which node: its own and those of all nodes below; shape (nodes, nodes)."""
        table = np.eye(len(self.tree), dtype=np.bool_)
        for name in self.tree.inner_nodes:
            below = [self.tree.value(node) for node in self.tree.descendants(name)]
            table[self.tree.value(name), below] = True
        return table

    def labels_json(self) -> dict[str, Any]:
        """The ``labels`` section: one integer per node."""
        ignore = {} if self.ignore_label is None else {"ignore": self.ignore_label}
        return {**self.tree.to_labels(), **ignore}

    def check_label_values(self, case: str, label_values: Iterable[int]) -> None:
        """Checks that every value in a case's label map is possible in its source.

        Raises:
            UserError: A value is no node that the source annotates, or it has voxels without label although its labels
                cover every leaf.
        """
        annotated = {self.tree.names[value] for value in np.flatnonzero(self.annotated(case))}
        values = {int(value) for value in label_values} - {-1, self.ignore_label}
        allowed = {self.tree.value(name) for name in annotated} | {0}
        strange = sorted(values - allowed)
        if strange:
            raise UserError(
                f"The label map of case {case!r} has the value(s) {', '.join(map(str, strange))}, but its source "
                f"{self.source_of(case)!r} annotates {', '.join(sorted(annotated))} (values "
                f"{', '.join(map(str, sorted(allowed)))}); mend the label map or the classes of the source."
            )
        if 0 in values and not possible_leaves(self.tree, BACKGROUND, annotated):
            raise UserError(
                f"The label map of case {case!r} has voxels without label, but the nodes that its source "
                f"{self.source_of(case)!r} annotates cover every leaf; annotate 'background' or use the ignore label."
            )

    def _check_label_values(self) -> None:
        """The tree has checked its integers already; here the background is a node like others."""
        if self.ignore_label is not None and self.ignore_label != len(self.tree):
            raise UserError(
                f"Expected the ignore label to be {len(self.tree)} (one above the highest node), but found "
                f"{self.ignore_label}."
            )

    def _check_every_class_has_a_source(self) -> None:
        """Nodes that nobody annotates are nothing to worry about: the tree says how they relate to the others."""


class DeterminedNodes:
    """Like `TreeSources` in what it is asked for cases, with parents of annotated children and without background.

    Args:
        sources: The collection.
    """

    def __init__(self, sources: TreeSources) -> None:
        self._sources = sources

    @property
    def class_names(self) -> tuple[str, ...]:
        """All nodes, in the order of their integers."""
        return self._sources.tree.names

    def source_of(self, case: str) -> str:
        """Name of the source that a case belongs to."""
        return self._sources.source_of(case)

    def annotated(self, case: str) -> npt.NDArray[np.bool_]:
        """Which nodes can be evaluated in a case, shape (nodes,)."""
        tree = self._sources.tree
        names = [tree.names[value] for value in np.flatnonzero(self._sources.annotated(case))]
        known = determined_nodes(tree, names)
        return np.array([name in known and name != BACKGROUND for name in tree], dtype=np.bool_)
