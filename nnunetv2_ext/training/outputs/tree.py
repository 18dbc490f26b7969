"""One output per node of a label tree; the softmax runs among siblings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from nnunetv2_ext.architectures.label_tree_network import label_tree_of
from nnunetv2_ext.labels.tree_sources import TreeSources
from nnunetv2_ext.training.loss.label_tree_loss import LabelTreeLoss
from nnunetv2_ext.training.pseudo_dice import count_leaf_hits
from nnunetv2_ext.training.validation_per_source import CasesOfOneKind, group_cases


class TreeOutputs:
    """Siblings share a softmax: no head can be left out.

    Args:
        dataset_json: Of the collection.
        smooth: See `LabelTreeLoss`.
        formula: Likewise.

    Attributes:
        labels: The collection.
        regions: Label values of each node: its own and those of all nodes below.
    """

    def __init__(self, dataset_json: Mapping[str, Any], smooth: float, formula: Any) -> None:
        self.labels = TreeSources.from_dataset_json(dataset_json)
        self._table = torch.from_numpy(self.labels.region_table())
        self.regions = [tuple(row.nonzero()[:, 0].tolist()) for row in self._table]
        self._options = {"ignore_label": self.labels.ignore_label, "smooth": smooth, "formula": formula}

    def loss(self) -> LabelTreeLoss:
        """See `SigmoidOutputs`."""
        return LabelTreeLoss(self.labels.tree, **self._options)

    def prepare(self, network: nn.Module) -> None:
        """Gives a network its tree."""
        _tree_of(network).set_parents(self.labels.tree.parent_values())

    def channels(self, network: nn.Module, annotated: Tensor) -> None:
        """See `SigmoidOutputs`."""

    def validate(self, network: nn.Module, validating: bool) -> None:
        """Lets a network give node logits, for the loss, in evaluation mode too."""
        _tree_of(network).gives_node_logits = validating

    def count_hits(
        self, network: nn.Module, logits: Tensor, label_map: Tensor, batch: dict[str, Any], _: Tensor
    ) -> Int[Tensor, "3 classes"]:
        """Counts of every node that the case's source determines; the most likely leaf decides."""
        determined = self.labels.determined()
        nodes = torch.stack([torch.from_numpy(determined.annotated(case)) for case in batch["keys"]])
        with torch.no_grad():
            leaves = _tree_of(network)(logits).argmax(1)
        return count_leaf_hits(leaves, label_map[:, 0], nodes, self._table, self.labels.ignore_label)

    def kinds_of(self, cases: Sequence[str]) -> list[CasesOfOneKind]:
        """See `SigmoidOutputs`."""
        return group_cases(self.labels.determined(), cases)

    def predicted_of(self, kind: CasesOfOneKind) -> None:
        """All leaves, whatever the cases are evaluated on."""


def _tree_of(network: nn.Module) -> Any:
    return label_tree_of(network)
