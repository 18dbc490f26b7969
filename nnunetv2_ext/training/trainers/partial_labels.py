"""Training on a collection of partially labelled datasets, for any network of this package.

Ulrich et al., "MultiTalent: A Multi-dataset Approach to Medical Image Segmentation", MICCAI 2023,
https://arxiv.org/abs/2303.14444.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter
from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA
from torch import Tensor, nn
from torch._dynamo.decorators import mark_unbacked
from torch.utils.hooks import RemovableHandle

from nnunetv2_ext.architectures.segmentation_heads import SelectableHeads
from nnunetv2_ext.dataset_conversion.splits import bring_splits
from nnunetv2_ext.labels.partial_labels import PartialLabels
from nnunetv2_ext.training.dataloading.annotated_cases import AnnotatedCases, sampling_probabilities
from nnunetv2_ext.training.dataloading.label_map_loader import LabelMapDataLoader
from nnunetv2_ext.training.loss.deep_supervision import PartialLabelDeepSupervision, halving_weights
from nnunetv2_ext.training.loss.partial_label_loss import PartialLabelLoss
from nnunetv2_ext.training.pseudo_dice import count_hits
from nnunetv2_ext.training.trainers.base import ExtTrainer
from nnunetv2_ext.training.validation_per_source import (
    CasesOfOneKind,
    EvaluatedClasses,
    group_cases,
    merge_summaries,
)


class PartialLabelTrainer(ExtTrainer):
    """Trains one sigmoid output per class; a case counts for the classes that its source annotates and for no others.

    The heads of a step are those of the classes that its batch annotates. The others get a gradient of zero, exactly
    as if they had been evaluated: weight decay and momentum go on moving them.

    Attributes:
        smooth: See `PartialLabelLoss`.
    """

    kind = "collection"
    smooth: float = 1.0
    partial_labels: PartialLabels
    _validated_cases: CasesOfOneKind | None = None

    # Set by nnU-Net; named here for type checkers, which do not see into nnU-Net.
    dataset_json: dict[str, Any]
    label_manager: Any
    output_folder: str

    def _read_labels(self, dataset_json: Mapping[str, Any]) -> None:
        self.partial_labels = PartialLabels.from_dataset_json(dataset_json)
        self._region_table = torch.from_numpy(self.partial_labels.region_table())

    def initialize(self) -> None:
        """Builds network, optimiser and loss; says so where a network can only evaluate all heads."""
        super().initialize()
        if not self.has_selectable_heads:
            self._note_that_all_heads_are_evaluated()

    def _note_that_all_heads_are_evaluated(self) -> None:
        self.print_to_log_file(
            f"{type(self.bare_network).__name__} evaluates the heads of all classes in every step; a subclass of "
            "SelectableHeads would evaluate those of annotated classes only."
        )

    @property
    def has_selectable_heads(self) -> bool:
        """Whether the network can evaluate the heads of some classes only."""
        return isinstance(self.bare_network, SelectableHeads)

    def _build_loss(self) -> nn.Module:
        loss = PartialLabelLoss(self._region_table, ignore_label=self.partial_labels.ignore_label, smooth=self.smooth)
        loss.to(self.device)
        scales = self._get_deep_supervision_scales()
        return loss if scales is None else PartialLabelDeepSupervision(loss, halving_weights(len(scales)))

    def get_dataloaders(self) -> tuple[Any, Any]:
        """Loaders of label maps for training and validation.

        Replaces nnU-Net's method, which has no hook for the loader's class, for the probabilities of cases and for
        leaving label maps as they are. Augmentation, patch sizes and processes are nnU-Net's.
        """
        patch_size = self.configuration_manager.patch_size
        rotation, dummy_2d, initial_patch_size, mirror_axes = (
            self.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        )
        scales = self._get_deep_supervision_scales()
        # Without `regions` and `ignore_label` the transforms leave the label map as it is.
        labels = {"is_cascaded": self.is_cascaded, "foreground_labels": self.label_manager.foreground_labels}
        train_transforms = self.get_training_transforms(
            patch_size,
            rotation,
            scales,
            mirror_axes,
            dummy_2d,
            use_mask_for_norm=self.configuration_manager.use_mask_for_norm,
            **labels,
        )
        validation_transforms = self.get_validation_transforms(scales, **labels)

        train_cases, validation_cases = self.get_tr_and_val_datasets()
        train = self._loader(train_cases, initial_patch_size, train_transforms)
        validation = self._loader(validation_cases, patch_size, validation_transforms)
        processes = get_allowed_n_proc_DA()
        loaders = (
            self._augmenter(train, processes, num_cached=max(6, processes // 2)),
            self._augmenter(validation, (processes + 1) // 2, num_cached=max(3, processes // 4)),
        )
        for loader in loaders:
            next(loader)  # starts the workers
        return loaders

    def _loader(self, dataset: Any, patch_size: Any, transforms: Any) -> LabelMapDataLoader:
        cases = AnnotatedCases(dataset, self.partial_labels, self.evaluated_regions)
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

    def _augmenter(self, loader: LabelMapDataLoader, processes: int, num_cached: int) -> Any:
        if processes == 0:
            return SingleThreadedAugmenter(loader, None)
        return NonDetMultiThreadedAugmenter(
            loader,
            None,
            num_processes=processes,
            num_cached=num_cached,
            pin_memory=self.device.type == "cuda",
            wait_time=0.002,
        )

    def training_loss(self, batch: dict[str, Any]) -> Tensor:
        """The loss of the classes that the batch annotates."""
        return self._outputs_and_loss(batch)[-1]

    def validation_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Loss and counts of the pseudo Dice of the classes that the batch annotates; all others count 0.

        Replaces nnU-Net's method, whose counts take an array of all classes.
        """
        classes, outputs, label_maps, loss = self._outputs_and_loss(batch)
        logits, label_map = (outputs, label_maps) if isinstance(outputs, Tensor) else (outputs[0], label_maps[0])
        counts = torch.zeros(3, len(self.partial_labels.class_names), dtype=torch.int64)
        counts[:, classes] = count_hits(
            logits,
            label_map,
            batch["annotated"][:, classes],
            self._region_table[classes],
            self.partial_labels.ignore_label,
        ).cpu()
        hits, false_alarms, misses = counts.numpy()
        return {"loss": loss.detach().cpu().numpy(), "tp_hard": hits, "fp_hard": false_alarms, "fn_hard": misses}

    def on_validation_epoch_end(self, val_outputs: list[dict[str, Any]]) -> None:
        """Logs the pseudo Dice; classes that were not drawn have none and are left out of the mean."""
        with np.errstate(invalid="ignore"):
            super().on_validation_epoch_end(val_outputs)

    def _outputs_and_loss(self, batch: dict[str, Any]) -> tuple[Tensor, Any, Any, Tensor]:
        """Evaluated classes (on the CPU), logits, label maps and loss of a batch."""
        images = batch["data"].to(self.device, non_blocking=True)
        target = batch["target"]
        label_maps = (
            [level.to(self.device, non_blocking=True) for level in target]
            if isinstance(target, list)
            else target.to(self.device, non_blocking=True)
        )
        # Reading the mask on the CPU spares a synchronisation with the device.
        annotated = batch["annotated"]
        with self.autocast():
            if self.has_selectable_heads:
                classes = annotated_classes(annotated)
                channels = classes.to(self.device, non_blocking=True)
                mark_unbacked(channels, 0)  # one compiled graph for any number of classes
                outputs = self.network(images, channels=channels)
            else:
                classes = torch.arange(annotated.shape[1])
                outputs = self.network(images)
            loss = self.loss(outputs, label_maps, annotated, classes)
        return classes, outputs, label_maps, loss

    def do_split(self) -> tuple[list[str], list[str]]:
        """Training and validation cases; during the final validation of some cases only those.

        nnU-Net draws random folds where it finds none, and they would part the copies of an image that two sources
        share; the merged dataset's own folds are fetched first.
        """
        bring_splits(self.plans_manager.dataset_name)
        train, validation = super().do_split()
        if self._validated_cases is not None:
            validation = list(self._validated_cases.cases)
        return train, validation

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """Predicts and evaluates every validation case as its own source annotates it.

        nnU-Net's one label map per case cannot hold several sources' versions of an organ, so its method runs once per
        kind of case, with the classes of that kind only. ``validation/summary.json`` has nnU-Net's format and covers
        all cases; ``validation/summary_<source>.json`` covers one source.
        """
        kinds = self._kinds_of_cases(self.do_split()[1])
        for kind in kinds:
            with self._validating(kind):
                super().perform_actual_validation(save_probabilities)
        if self.is_ddp:
            torch.distributed.barrier()
        if self.local_rank == 0:
            regions = [str(region) for region in self.evaluated_regions]
            names = dict(zip(regions, self.partial_labels.class_names, strict=True))
            summary = merge_summaries(self.output_folder, kinds, names)
            for region, metrics in summary["mean"].items():
                self.logger.log_summary(f"final_val/class_{region}_dice", metrics["Dice"])
            self.logger.log_summary("final_val/foreground_dice", summary["foreground_mean"]["Dice"])
            self.print_to_log_file(
                "Mean validation Dice of all sources:", summary["foreground_mean"]["Dice"], also_print_to_console=True
            )

    @property
    def evaluated_regions(self) -> list[tuple[int, ...]]:
        """Label values of each class, in the order of ``partial_labels.class_names``."""
        regions: list[tuple[int, ...]] = self.label_manager.foreground_regions
        return regions

    def _kinds_of_cases(self, cases: list[str]) -> list[CasesOfOneKind]:
        return group_cases(self.partial_labels, cases)

    def _dataset_json_of(self, kind: CasesOfOneKind) -> dict[str, Any]:
        """What the export of predictions sees of the dataset during the validation of some cases."""
        return kind.dataset_json(self.dataset_json)

    @contextmanager
    def _validating(self, kind: CasesOfOneKind) -> Iterator[None]:
        """Lets nnU-Net's validation see a dataset of these cases and classes, with a folder of its own."""
        names = ("dataset_json", "label_manager", "output_folder", "_validated_cases")
        before = {name: getattr(self, name) for name in names}
        regions = self.evaluated_regions
        self.dataset_json = self._dataset_json_of(kind)
        self.label_manager = EvaluatedClasses(
            [regions[index] for index in kind.classes],
            self.label_manager.ignore_label,
            self.label_manager.foreground_labels,
        )
        self.output_folder = str(kind.folder(self.output_folder))
        self._validated_cases = kind
        hook = self._evaluate_only(torch.tensor(kind.classes, device=self.device))
        try:
            yield
        finally:
            hook.remove()
            for name, value in before.items():
                setattr(self, name, value)

    def _evaluate_only(self, classes: Tensor) -> RemovableHandle:
        """Makes the network return these classes until the handle is removed."""
        if self.has_selectable_heads:
            return self.network.register_forward_pre_hook(
                lambda _, images, options: (images, {**options, "channels": classes}), with_kwargs=True
            )
        return self.network.register_forward_hook(lambda _network, _images, logits: logits[:, classes])


def annotated_classes(annotated: Tensor) -> Tensor:
    """Indices of the classes that a batch annotates, Bool (batch, classes) to Int64 (channels,); at least one.

    A batch that annotates nothing evaluates the first head, so that its loss of 0 has a graph to run through.
    """
    classes = annotated.any(0).nonzero().flatten()
    return classes if len(classes) else torch.zeros(1, dtype=torch.int64)
