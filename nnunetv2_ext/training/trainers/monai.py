"""Trainers of MONAI's bundles: SegResNet (wholeBody_ct_segmentation) and UNet (spleen_ct_segmentation).

Settings of https://github.com/Project-MONAI/model-zoo: AdamW 1e-4, weight decay 1e-5, MONAI's DiceCELoss (background
included), patches of 96^3, no deep supervision. Augmentation and schedule are nnU-Net's. Needs the extra ``monai``.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from nnunetv2_ext.architectures.planned import FromPlans
from nnunetv2_ext.training.loss.dice_ce import DiceCrossEntropy
from nnunetv2_ext.training.trainers.base import ExtTrainer
from nnunetv2_ext.utilities.errors import UserError

__all__ = ["MonaiUNetTrainer", "SegResNetTrainer"]


class _MonaiTrainer(ExtTrainer):
    """What both bundles share."""

    optimizer_name = "adamw"
    initial_lr = 1e-4
    weight_decay = 1e-5
    enable_deep_supervision = False

    # Set by nnU-Net; named here for type checkers, which do not see into nnU-Net.
    label_manager: Any

    def _build_loss(self) -> nn.Module:
        if self.label_manager.has_regions:
            raise UserError(
                f"{type(self).__name__} expects classes that exclude each other, but this dataset has regions; train "
                "it with nnUNetTrainer or a MultiTalent trainer."
            )
        return DiceCrossEntropy(self.label_manager.ignore_label)


class SegResNetTrainer(_MonaiTrainer):
    """SegResNet with the settings of the whole-body CT bundle."""

    architecture = FromPlans(plans_for="monai_networks.SegResNet")


class MonaiUNetTrainer(_MonaiTrainer):
    """MONAI's UNet with the settings of the spleen CT bundle."""

    architecture = FromPlans(plans_for="monai_networks.UNet")
