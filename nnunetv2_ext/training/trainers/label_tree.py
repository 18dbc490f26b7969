"""Trainers for collections with a label tree, whose sources annotate leaves, inner nodes, or some of both.

Becker et al., "SALT: Introducing a framework for hierarchical segmentations in medical imaging using label trees",
Scientific Reports 15, 44140 (2025), https://doi.org/10.1038/s41598-025-31639-1. The loss is the one of
docs/label_trees.md instead of the published one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from nnunetv2_ext.architectures.label_tree_network import label_tree_of
from nnunetv2_ext.architectures.planned import MedNeXtFromPlans, WithLabelTree
from nnunetv2_ext.labels.tree_sources import TreeSources
from nnunetv2_ext.training.loss.deep_supervision import PartialLabelDeepSupervision, halving_weights
from nnunetv2_ext.training.loss.label_tree_loss import LabelTreeLoss
from nnunetv2_ext.training.pseudo_dice import count_leaf_hits
from nnunetv2_ext.training.trainers.mednext import MedNeXtSettings
from nnunetv2_ext.training.trainers.partial_labels import PartialLabelTrainer
from nnunetv2_ext.training.validation_per_source import CasesOfOneKind, group_cases
from nnunetv2_ext.training.variants import define_variants


class LabelTreeTrainer(PartialLabelTrainer):
    """Trains one output per node of the tree; the softmax runs among siblings.

    Unless options say otherwise, images are not mirrored, in training and in prediction: trees tell left from right.

    Attributes:
        formula: ``"possible_leaves"``, or ``"salt"`` for the published loss; see `LabelTreeLoss`.
    """

    kind = "tree"
    mirroring = False
    formula: ClassVar[Any] = "possible_leaves"
    partial_labels: TreeSources

    def _read_labels(self, dataset_json: Mapping[str, Any]) -> None:
        self.partial_labels = TreeSources.from_dataset_json(dataset_json)
        self._region_table = torch.from_numpy(self.partial_labels.region_table())

    def initialize(self) -> None:
        """Builds network, optimiser and loss, and gives the network its tree."""
        super().initialize()
        self._tree_output.set_parents(self.partial_labels.tree.parent_values())

    @property
    def _tree_output(self) -> Any:
        return label_tree_of(self.bare_network)

    @property
    def has_selectable_heads(self) -> bool:
        """Siblings share a softmax: single heads cannot be left out."""
        return False

    def _note_that_all_heads_are_evaluated(self) -> None:
        """There is nothing to be said: it is no matter of the network."""

    def _build_loss(self) -> nn.Module:
        loss = LabelTreeLoss(
            self.partial_labels.tree,
            ignore_label=self.partial_labels.ignore_label,
            smooth=self.smooth,
            formula=self.formula,
        )
        scales = self._get_deep_supervision_scales()
        return loss if scales is None else PartialLabelDeepSupervision(loss, halving_weights(len(scales)))

    def on_validation_epoch_start(self) -> None:
        """Evaluation mode, with node logits for the loss."""
        super().on_validation_epoch_start()
        self._tree_output.gives_node_logits = True

    def on_validation_epoch_end(self, val_outputs: list[dict[str, Any]]) -> None:
        """Logs loss and pseudo Dice; from here on the network predicts leaves again."""
        self._tree_output.gives_node_logits = False
        super().on_validation_epoch_end(val_outputs)

    def validation_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Loss, and counts of the pseudo Dice of every node that the case's source determines.

        Replaces the method for sigmoid outputs: here the most likely leaf decides.
        """
        _, outputs, label_maps, loss = self._outputs_and_loss(batch)
        logits, label_map = (outputs, label_maps) if isinstance(outputs, Tensor) else (outputs[0], label_maps[0])
        determined = self.partial_labels.determined()
        nodes = torch.stack([torch.from_numpy(determined.annotated(case)) for case in batch["keys"]])
        with torch.no_grad():
            leaves = self._tree_output(logits).argmax(1)
        counts = count_leaf_hits(leaves, label_map[:, 0], nodes, self._region_table, self.partial_labels.ignore_label)
        hits, false_alarms, misses = counts.numpy()
        return {"loss": loss.detach().cpu().numpy(), "tp_hard": hits, "fp_hard": false_alarms, "fn_hard": misses}

    @property
    def evaluated_regions(self) -> list[tuple[int, ...]]:
        """Label values of each node: its own and those of all nodes below."""
        return [tuple(row.nonzero()[:, 0].tolist()) for row in self._region_table]

    def _kinds_of_cases(self, cases: list[str]) -> list[CasesOfOneKind]:
        return group_cases(self.partial_labels.determined(), cases)

    def _dataset_json_of(self, kind: CasesOfOneKind) -> dict[str, Any]:
        """All nodes: predictions hold leaves, whatever the cases are evaluated on."""
        return self.dataset_json

    def _evaluate_only(self, classes: Tensor) -> Any:
        """The network goes on predicting all leaves; nnU-Net compares the nodes of these cases."""
        return self.network.register_forward_hook(lambda _network, _images, _outputs: None)


class LabelTreeTrainer_mednext(MedNeXtSettings, LabelTreeTrainer):
    """The MedNeXt that the plans name (needs the extra ``monai``)."""

    architecture = WithLabelTree(backbone=MedNeXtFromPlans())


__all__ = ["LabelTreeTrainer_mednext", *define_variants(globals())]  # noqa: PLE0604
