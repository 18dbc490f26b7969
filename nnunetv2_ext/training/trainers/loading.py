"""Where batches come from."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA
from torch import distributed

from nnunetv2_ext.training.dataloading.case_weights import read_case_weights, weighted
from nnunetv2_ext.training.dataloading.processes import cached_batches, processes_that_fit, validating_processes


class LoadingTrainer(nnUNetTrainer):
    """nnU-Net's loaders, with weights of cases, and no more processes than the memory holds.

    Attributes:
        case_weights: File with weights of cases, see `read_case_weights`.
        fits_workers_to_memory: Whether the number of loading processes depends on the free memory.
    """

    case_weights: str | None = None
    fits_workers_to_memory: bool = False

    # Set by nnU-Net; named here for type checkers, which do not see into nnU-Net.
    label_manager: Any

    def get_dataloaders(self) -> tuple[Any, Any]:
        """Loaders for training and validation.

        Replaces nnU-Net's method, which has no hook for the loaders' class, for the probabilities of cases and for what
        transforms make of label maps. Augmentation, patch sizes and processes are nnU-Net's.
        """
        patch_size = self.configuration_manager.patch_size
        rotation, dummy_2d, initial_patch_size, mirror_axes = (
            self.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        )
        scales = self._get_deep_supervision_scales()
        labels = self.transformed_labels()
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
        if self.case_weights is not None:
            weights = read_case_weights(
                self.case_weights, self.dataset_class.get_identifiers(train_cases.source_folder)
            )
            train.sampling_probabilities = weighted(train.sampling_probabilities, train.indices, weights)
        processes = self._processes(initial_patch_size)
        ready, ready_for_validation = cached_batches(processes)
        loaders = (
            self._augmenter(train, processes, ready),
            self._augmenter(validation, validating_processes(processes), ready_for_validation),
        )
        for loader in loaders:
            next(loader)  # starts the workers
        return loaders

    def transformed_labels(self) -> dict[str, Any]:
        """What the transforms are told of label maps."""
        labels = self.label_manager
        return {
            "is_cascaded": self.is_cascaded,
            "foreground_labels": labels.foreground_labels,
            "regions": labels.foreground_regions if labels.has_regions else None,
            "ignore_label": labels.ignore_label,
        }

    def _loader(self, dataset: Any, patch_size: Any, transforms: Any) -> nnUNetDataLoader:
        return nnUNetDataLoader(
            dataset,
            self.batch_size,
            patch_size,
            self.configuration_manager.patch_size,
            self.label_manager,
            oversample_foreground_percent=self.oversample_foreground_percent,
            probabilistic_oversampling=self.probabilistic_oversampling,
            transforms=transforms,
        )

    def _augmenter(self, loader: nnUNetDataLoader, processes: int, num_cached: int) -> Any:
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

    def _processes(self, initial_patch_size: Any) -> int:
        wanted: int = get_allowed_n_proc_DA()
        if not self.fits_workers_to_memory:
            return wanted
        channels, regions = self.num_input_channels, self.transformed_labels().get("regions")
        # Images are float32; targets are bool per region, or int16.
        of_voxel = 4 * channels + (len(regions) if regions else 2)
        processes = processes_that_fit(
            wanted,
            self.batch_size * prod(self.configuration_manager.patch_size) * of_voxel,
            self.batch_size * int(np.prod(initial_patch_size)) * 4 * channels,
            distributed.get_world_size() if self.is_ddp else 1,
        )
        self.print_to_log_file(f"The memory holds {processes} processes that load data, of {wanted} wanted.")
        return processes
