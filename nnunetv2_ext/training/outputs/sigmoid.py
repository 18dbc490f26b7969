"""One sigmoid output per class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from nnunetv2_ext.architectures.segmentation_heads import SelectableHeads
from nnunetv2_ext.labels.partial_labels import PartialLabels
from nnunetv2_ext.training.loss.partial_label_loss import PartialLabelLoss
from nnunetv2_ext.training.pseudo_dice import count_hits
from nnunetv2_ext.training.validation_per_source import CasesOfOneKind, group_cases


class SigmoidOutputs:
    """A step evaluates the heads of the classes that its batch annotates, where the network can.

    The other heads get a gradient of zero, exactly as if they had been evaluated: weight decay and momentum go on
    moving them.

    Args:
        dataset_json: Of the collection.
        smooth: See `PartialLabelLoss`.

    Attributes:
        labels: The collection.
        regions: Label values of each class, in the order of the output channels.
    """

    def __init__(self, dataset_json: Mapping[str, Any], smooth: float) -> None:
        self.labels = PartialLabels.from_dataset_json(dataset_json)
        self.regions = [tuple(dataset_json["labels"][name]) for name in self.labels.class_names]
        self._table = torch.from_numpy(self.labels.region_table())
        self._smooth = smooth

    def loss(self) -> PartialLabelLoss:
        """The loss of one resolution, called with logits, label map, what is annotated, and the channels computed."""
        return PartialLabelLoss(self._table, ignore_label=self.labels.ignore_label, smooth=self._smooth)

    def prepare(self, network: nn.Module) -> str | None:
        """Fits a network to the collection; what the training log should say of it."""
        if isinstance(network, SelectableHeads):
            return None
        return (
            f"{type(network).__name__} evaluates the heads of all classes in every step; a subclass of SelectableHeads "
            "would evaluate those of annotated classes only."
        )

    def channels(self, network: nn.Module, annotated: Bool[Tensor, "batch classes"]) -> Int[Tensor, " some"] | None:
        """The channels that a batch needs; None for all."""
        return annotated_classes(annotated) if isinstance(network, SelectableHeads) else None

    def validate(self, network: nn.Module, validating: bool) -> None:
        """Called before the batches of a validation epoch and after them."""

    def count_hits(
        self, _: nn.Module, logits: Tensor, label_map: Tensor, batch: dict[str, Any], channels: Int[Tensor, " some"]
    ) -> Int[Tensor, "3 classes"]:
        """True positives, false positives and false negatives of every class; 0 where it is not annotated."""
        counts = torch.zeros(3, len(self.regions), dtype=torch.int64)
        annotated = batch["annotated"][:, channels]
        counts[:, channels] = count_hits(
            logits, label_map, annotated, self._table[channels], self.labels.ignore_label
        ).cpu()
        return counts

    def kinds_of(self, cases: Sequence[str]) -> list[CasesOfOneKind]:
        """Cases by what they are evaluated on."""
        return group_cases(self.labels, cases)

    def predicted_of(self, kind: CasesOfOneKind) -> Sequence[str]:
        """What their source annotates: one label map cannot hold several sources' versions of an organ."""
        return [self.labels.class_names[index] for index in kind.classes]


def annotated_classes(annotated: Bool[Tensor, "batch classes"]) -> Int[Tensor, " some"]:
    """Indices of the classes that a batch annotates; at least one.

    A batch that annotates nothing evaluates the first head, so that its loss of 0 has a graph to run through.
    """
    classes = annotated.any(0).nonzero().flatten()
    return classes if len(classes) else torch.zeros(1, dtype=torch.int64)
