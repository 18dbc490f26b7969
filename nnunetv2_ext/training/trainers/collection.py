"""Training on a collection of partially labelled datasets, for any network of this package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._dynamo.decorators import mark_unbacked

from nnunetv2_ext.dataset_conversion.splits import bring_splits
from nnunetv2_ext.training.dataloading.annotated_cases import AnnotatedCases, sampling_probabilities
from nnunetv2_ext.training.dataloading.label_map_loader import LabelMapDataLoader
from nnunetv2_ext.training.loss.deep_supervision import PartialLabelDeepSupervision, halving_weights
from nnunetv2_ext.training.outputs.heads import HeadOutputs
from nnunetv2_ext.training.outputs.sigmoid import SigmoidOutputs
from nnunetv2_ext.training.outputs.tree import TreeOutputs
from nnunetv2_ext.training.trainers.base import ExtTrainer
from nnunetv2_ext.training.validation_per_source import evaluate_per_source


class CollectionTrainer(ExtTrainer):
    """A case counts for the classes that its source annotates and for no others.

    Attributes:
        outputs: What the outputs of the network mean.
        smooth: Of the Dice in the loss.
    """

    smooth: float = 1.0
    outputs: SigmoidOutputs | TreeOutputs | HeadOutputs

    @property
    def partial_labels(self) -> Any:
        """The collection."""
        return self.outputs.labels

    def initialize(self) -> None:
        """Builds network, optimiser and loss, and fits the network to the collection."""
        super().initialize()
        if (note := self.outputs.prepare(self.bare_network)) is not None:
            self.print_to_log_file(note)

    def _build_loss(self) -> nn.Module:
        loss = self.outputs.loss()
        loss.to(self.device)
        scales = self._get_deep_supervision_scales()
        return loss if scales is None else PartialLabelDeepSupervision(loss, halving_weights(len(scales)))

    def transformed_labels(self) -> dict[str, Any]:
        """Without ``regions`` and ``ignore_label`` the transforms leave the label map as it is."""
        return {"is_cascaded": self.is_cascaded, "foreground_labels": self.label_manager.foreground_labels}

    def _loader(self, dataset: Any, patch_size: Any, transforms: Any) -> LabelMapDataLoader:
        cases = AnnotatedCases(dataset, self.partial_labels, self.outputs.regions)
        return LabelMapDataLoader(
            cases,
            self.batch_size,
            patch_size,
            self.configuration_manager.patch_size,
            self.label_manager,
            oversample_foreground_percent=self.oversample_foreground_percent,
            sampling_probabilities=sampling_probabilities(self.partial_labels, cases.identifiers),
            probabilistic_oversampling=self.probabilistic_oversampling,
            transforms=transforms,
        )

    def training_loss(self, batch: dict[str, Any]) -> Tensor:
        """The loss of the classes that the batch annotates."""
        return self._outputs_and_loss(batch)[-1]

    def on_validation_epoch_start(self) -> None:
        """Evaluation mode, with outputs that the loss takes."""
        super().on_validation_epoch_start()
        self.outputs.validate(self.bare_network, True)

    def validation_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Loss and counts of the pseudo Dice of the classes that the batch annotates; all others count 0.

        Replaces nnU-Net's method, whose counts take an array of all classes.
        """
        channels, outputs, label_maps, loss = self._outputs_and_loss(batch)
        logits, label_map = (outputs, label_maps) if isinstance(outputs, Tensor) else (outputs[0], label_maps[0])
        counts = self.outputs.count_hits(self.bare_network, logits, label_map, batch, channels)
        hits, false_alarms, misses = counts.numpy()
        return {"loss": loss.detach().cpu().numpy(), "tp_hard": hits, "fp_hard": false_alarms, "fn_hard": misses}

    def on_validation_epoch_end(self, val_outputs: list[dict[str, Any]]) -> None:
        """Logs the pseudo Dice; classes that were not drawn have none and are left out of the mean."""
        self.outputs.validate(self.bare_network, False)
        with np.errstate(invalid="ignore"):
            super().on_validation_epoch_end(val_outputs)

    def _outputs_and_loss(self, batch: dict[str, Any]) -> tuple[Tensor, Any, Any, Tensor]:
        """Evaluated channels (on the CPU), logits, label maps and loss of a batch."""
        images = batch["data"].to(self.device, non_blocking=True)
        target = batch["target"]
        label_maps = (
            [level.to(self.device, non_blocking=True) for level in target]
            if isinstance(target, list)
            else target.to(self.device, non_blocking=True)
        )
        with self.autocast():
            channels, outputs = self._run_network(images, batch)
            # Reading the mask on the CPU spares a synchronisation with the device.
            loss = self.loss(outputs, label_maps, batch["annotated"], channels)
        return channels, outputs, label_maps, loss

    def _run_network(self, images: Tensor, batch: dict[str, Any]) -> tuple[Tensor, Any]:
        """Evaluated channels (on the CPU) and logits."""
        channels = self.outputs.channels(self.bare_network, batch["annotated"])
        if channels is None:
            return torch.arange(batch["annotated"].shape[1]), self.network(images)
        there = channels.to(self.device, non_blocking=True)
        mark_unbacked(there, 0)  # one compiled graph for any number of classes
        return channels, self.network(images, channels=there)

    def do_split(self) -> tuple[list[str], list[str]]:
        """Training and validation cases.

        nnU-Net draws random folds where it finds none, and they would part the copies of an image that two sources
        share; the merged dataset's own folds are fetched first.
        """
        bring_splits(self.plans_manager.dataset_name)
        return super().do_split()

    def validated_classes(self, cases: Sequence[str]) -> Mapping[str, Sequence[str] | None]:
        """Of each case what its source annotates; cases without are left out."""
        kinds = self.outputs.kinds_of(cases)
        return {case: self.outputs.predicted_of(kind) for kind in kinds for case in kind.cases}

    def evaluate_predictions(self, cases: Sequence[str]) -> Mapping[str, Any]:
        """Evaluates every case as its own source annotates it.

        ``validation/summary.json`` has nnU-Net's format and covers all cases; ``validation/summary_<source>.json``
        covers one source.
        """
        names = dict(zip(self.outputs.regions, self.partial_labels.class_names, strict=True))
        return evaluate_per_source(self, self.outputs.kinds_of(cases), names)
