"""Trainers for collections of which every class has an output of its own.

Ulrich et al., "MultiTalent: A Multi-dataset Approach to Medical Image Segmentation", MICCAI 2023,
https://arxiv.org/abs/2303.14444.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nnunetv2_ext.training.outputs.sigmoid import SigmoidOutputs
from nnunetv2_ext.training.trainers.collection import CollectionTrainer


class PartialLabelTrainer(CollectionTrainer):
    """Trains one sigmoid output per class, see `SigmoidOutputs`."""

    kind = "collection"

    def _read_labels(self, dataset_json: Mapping[str, Any]) -> None:
        self.outputs = SigmoidOutputs(dataset_json, self.smooth)
