"""Trainers for collections with a label tree, whose sources annotate leaves, inner nodes, or some of both.

Becker et al., "SALT: Introducing a framework for hierarchical segmentations in medical imaging using label trees",
Scientific Reports 15, 44140 (2025), https://doi.org/10.1038/s41598-025-31639-1. The loss is the one of
docs/label_trees.md instead of the published one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from nnunetv2_ext.architectures.planned import MedNeXtFromPlans, WithLabelTree
from nnunetv2_ext.training.outputs.tree import TreeOutputs
from nnunetv2_ext.training.trainers.collection import CollectionTrainer
from nnunetv2_ext.training.trainers.mednext import MedNeXtSettings
from nnunetv2_ext.training.variants import define_variants


class LabelTreeTrainer(CollectionTrainer):
    """Trains one output per node of the tree, see `TreeOutputs`.

    Unless options say otherwise, images are not mirrored, in training and in prediction: trees tell left from right.

    Attributes:
        formula: ``"possible_leaves"``, or ``"salt"`` for the published loss; see `LabelTreeLoss`.
    """

    kind = "tree"
    mirroring = False
    formula: ClassVar[Any] = "possible_leaves"

    def _read_labels(self, dataset_json: Mapping[str, Any]) -> None:
        self.outputs = TreeOutputs(dataset_json, self.smooth, self.formula)


class LabelTreeTrainer_mednext(MedNeXtSettings, LabelTreeTrainer):
    """The MedNeXt that the plans name (needs the extra ``monai``)."""

    architecture = WithLabelTree(backbone=MedNeXtFromPlans())


__all__ = ["LabelTreeTrainer_mednext", *define_variants(globals())]  # noqa: PLE0604
