"""MultiTalent: trainers for collections of partially labelled datasets.

Ulrich et al., "MultiTalent: A Multi-dataset Approach to Medical Image Segmentation", MICCAI 2023,
https://arxiv.org/abs/2303.14444. The paper trains 2000 epochs (``_2000ep``) with the plans ``multitalent_unet`` and
``multitalent_resenc``; other numbers of epochs are nnU-Net's default.

A further network is one class of a few lines; see docs/extend.md.
"""

from __future__ import annotations

from typing import Any

import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler

from nnunetv2_ext.training.trainers.networks import MULTITALENT_RESENC, PLAIN_UNET, STUNetFromPlans
from nnunetv2_ext.training.trainers.partial_labels import PartialLabelTrainer
from nnunetv2_ext.training.trainers.swinunetr import SwinUNETRSettings

__all__ = [
    "MultiTalentTrainer_resenc",
    "MultiTalentTrainer_resenc_2000ep",
    "MultiTalentTrainer_stunet_base",
    "MultiTalentTrainer_stunet_base_2000ep",
    "MultiTalentTrainer_stunet_huge",
    "MultiTalentTrainer_stunet_huge_2000ep",
    "MultiTalentTrainer_stunet_large",
    "MultiTalentTrainer_stunet_large_2000ep",
    "MultiTalentTrainer_stunet_small",
    "MultiTalentTrainer_stunet_small_2000ep",
    "MultiTalentTrainer_swinunetr",
    "MultiTalentTrainer_swinunetr_2000ep",
    "MultiTalentTrainer_unet",
    "MultiTalentTrainer_unet_2000ep",
]


class MultiTalentTrainer_unet(PartialLabelTrainer):
    """nnU-Net's default U-Net."""

    architecture = PLAIN_UNET


class MultiTalentTrainer_unet_2000ep(MultiTalentTrainer_unet):
    """nnU-Net's default U-Net, 2000 epochs as in the paper."""

    num_epochs = 2000


class MultiTalentTrainer_resenc(PartialLabelTrainer):
    """The residual-encoder U-Net of the published checkpoints."""

    architecture = MULTITALENT_RESENC


class MultiTalentTrainer_resenc_2000ep(MultiTalentTrainer_resenc):
    """The residual-encoder U-Net of the published checkpoints, 2000 epochs as in the paper."""

    num_epochs = 2000


class MultiTalentTrainer_stunet_small(PartialLabelTrainer):
    """STU-Net S."""

    architecture = STUNetFromPlans("S")
    trainer_for_plain_datasets = "STUNetTrainer_small"


class MultiTalentTrainer_stunet_small_2000ep(MultiTalentTrainer_stunet_small):
    """STU-Net S, 2000 epochs."""

    num_epochs = 2000


class MultiTalentTrainer_stunet_base(PartialLabelTrainer):
    """STU-Net B."""

    architecture = STUNetFromPlans("B")
    trainer_for_plain_datasets = "STUNetTrainer_base"


class MultiTalentTrainer_stunet_base_2000ep(MultiTalentTrainer_stunet_base):
    """STU-Net B, 2000 epochs."""

    num_epochs = 2000


class MultiTalentTrainer_stunet_large(PartialLabelTrainer):
    """STU-Net L."""

    architecture = STUNetFromPlans("L")
    trainer_for_plain_datasets = "STUNetTrainer_large"


class MultiTalentTrainer_stunet_large_2000ep(MultiTalentTrainer_stunet_large):
    """STU-Net L, 2000 epochs."""

    num_epochs = 2000


class MultiTalentTrainer_stunet_huge(PartialLabelTrainer):
    """STU-Net H."""

    architecture = STUNetFromPlans("H")
    trainer_for_plain_datasets = "STUNetTrainer_huge"


class MultiTalentTrainer_stunet_huge_2000ep(MultiTalentTrainer_stunet_huge):
    """STU-Net H, 2000 epochs."""

    num_epochs = 2000


class MultiTalentTrainer_swinunetr(SwinUNETRSettings, PartialLabelTrainer):
    """MONAI's SwinUNETR (needs the extra ``monai``)."""

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, Any]:
        """AdamW with nnU-Net's polynomial schedule."""
        optimizer = self.make_optimizer()
        return optimizer, PolyLRScheduler(optimizer, self.initial_lr, self.num_epochs)


class MultiTalentTrainer_swinunetr_2000ep(MultiTalentTrainer_swinunetr):
    """MONAI's SwinUNETR, 2000 epochs as in the paper."""

    num_epochs = 2000
