"""Any dataset in SALT's layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from nnunetv2_ext.dataset_conversion.converter import DatasetConverter
from nnunetv2_ext.labels.label_order import LabelOrder
from nnunetv2_ext.labels.label_tree import BACKGROUND, SECTION, LabelTree
from nnunetv2_ext.labels.partial_labels import SECTION as PARTIAL_LABELS
from nnunetv2_ext.labels.salt_files import SaltLabels, read_salt_labels
from nnunetv2_ext.labels.tree_annotation import unlabelled_is_possible

# What SALT writes into voxels that nobody annotated.
_IGNORE = 255


class Converter(DatasetConverter):
    """Any dataset in the layout of SALT, with its label tree."""

    @cached_property
    def salt_labels(self) -> SaltLabels:
        """The two text files."""
        return read_salt_labels(self.root)

    @cached_property
    def tree(self) -> LabelTree:
        """The dataset's own label tree."""
        return self.salt_labels.tree()

    @cached_property
    def order(self) -> LabelOrder:
        """Node -> the first label value of the source that stands for it."""
        values: dict[str, int] = {}
        for value, node in enumerate(self.salt_labels.nodes):
            if node is not None and node != BACKGROUND:
                values.setdefault(node, value)
        return LabelOrder(self.root.name, values, ignore_label=_IGNORE)

    @property
    def target_order(self) -> LabelOrder:
        """Every node of the tree with its integer."""
        labels = {node: value for node, value in self.tree.to_labels().items() if node != BACKGROUND}
        return LabelOrder(self.root.name, labels, ignore_label=len(self.tree))

    def rewritten_values(self) -> Mapping[int, int]:
        """Values without a node are none of the annotated nodes; values with the same node are the first of them."""
        annotated = self.salt_labels.annotated
        has_place = BACKGROUND not in annotated and unlabelled_is_possible(self.tree, annotated)
        none = 0 if has_place else _IGNORE
        rewritten = {}
        for value, (name, node) in enumerate(zip(self.salt_labels.names, self.salt_labels.nodes, strict=True)):
            known = none if node is None else 0 if node == BACKGROUND else self.order.value(node)
            if value and name is not None and known != value:
                rewritten[value] = known
        return rewritten

    def metadata(self, cases: Sequence[str]) -> dict[str, Any]:
        """The tree, and which of its nodes are annotated."""
        return {
            SECTION: self.tree.to_nested(),
            PARTIAL_LABELS: {self.root.name: {"classes": list(self.salt_labels.annotated), "cases": list(cases)}},
        }
