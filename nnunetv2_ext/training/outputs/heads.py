"""A softmax head per source, over the exclusive classes that its regions leave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from nnunetv2_ext.labels.partial_labels import PartialLabels
from nnunetv2_ext.labels.source_heads import source_heads
from nnunetv2_ext.training.loss.source_heads_loss import HeadClasses, SourceHeadsLoss
from nnunetv2_ext.training.pseudo_dice import count_leaf_hits
from nnunetv2_ext.training.validation_per_source import CasesOfOneKind, group_cases


class HeadOutputs:
    """A step evaluates the heads of the sources of its batch; the others get a gradient of zero.

    Args:
        dataset_json: Of the collection.

    Attributes:
        labels: The collection.
        regions: Label values of each class.
        heads: Source to what the outputs of its head stand for.
    """

    def __init__(self, dataset_json: Mapping[str, Any]) -> None:
        self.labels = PartialLabels.from_dataset_json(dataset_json)
        self.regions = [tuple(dataset_json["labels"][name]) for name in self.labels.class_names]
        self.heads = source_heads(self.labels)
        self._table = torch.from_numpy(self.labels.region_table())
        self._place = {source: place for place, source in enumerate(self.heads)}

    def loss(self) -> SourceHeadsLoss:
        """See `SigmoidOutputs`; instead of channels it takes the places of the heads."""
        number = {name: number for number, name in enumerate(self.labels.class_names)}
        classes = [
            HeadClasses(head.values, [[number[name] for name in names] for names in head.classes])
            for head in self.heads.values()
        ]
        highest = max(self._table.shape[1] - 1, self.labels.ignore_label or 0)
        return SourceHeadsLoss(classes, highest, ignore_label=self.labels.ignore_label)

    def prepare(self, network: nn.Module) -> None:
        """See `SigmoidOutputs`; the plans have told the network its heads."""

    def places(self, cases: Sequence[str]) -> Int[Tensor, " batch"]:
        """Place of the head of each case among those of the network."""
        return torch.tensor([self._place[self.labels.source_of(case)] for case in cases])

    def channels(self, network: nn.Module, annotated: Tensor) -> None:
        """See `SigmoidOutputs`; heads are chosen by the sources of a batch instead."""

    def validate(self, network: nn.Module, validating: bool) -> None:
        """See `SigmoidOutputs`."""

    def count_hits(
        self, _: nn.Module, logits: Tensor, label_map: Tensor, batch: dict[str, Any], places: Int[Tensor, " batch"]
    ) -> Int[Tensor, "3 classes"]:
        """Counts of the classes that are annotated; the largest output of a head decides."""
        heads = [list(self.heads.values())[place] for place in places.tolist()]
        # The first label value of an output stands for all of them: they belong to the same classes.
        tables = [torch.tensor([0, *(values[0] for values in head.values)], device=logits.device) for head in heads]
        each = logits[0].split([head.outputs for head in heads])
        decided = torch.stack([table[own.argmax(0)] for table, own in zip(tables, each, strict=True)])
        return count_leaf_hits(decided, label_map[:, 0], batch["annotated"], self._table, self.labels.ignore_label)

    def kinds_of(self, cases: Sequence[str]) -> list[CasesOfOneKind]:
        """Cases by what they are evaluated on."""
        return group_cases(self.labels, cases)

    def predicted_of(self, kind: CasesOfOneKind) -> Sequence[str]:
        """What their source annotates, which its head tells apart."""
        return [self.labels.class_names[index] for index in kind.classes]
