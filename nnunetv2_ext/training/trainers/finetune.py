"""Fine-tuning of networks that the plans name, in the three phases of MultiTalent (section 2.2.5 of the paper).

The loss is nnU-Net's own for the target dataset: Dice and cross-entropy, or Dice and binary cross-entropy for regions.
"""

from __future__ import annotations

from nnunetv2_ext.training.trainers.mednext import MedNeXtSettings
from nnunetv2_ext.training.trainers.swinunetr import SwinUNETRSettings
from nnunetv2_ext.training.trainers.warmup import WarmUpTrainer

__all__ = [
    "FineTuneTrainer",
    "FineTuneTrainer_mednext",
    "FineTuneTrainer_resenc",
    "FineTuneTrainer_swinunetr",
    "FineTuneTrainer_unet",
]


class FineTuneTrainer(WarmUpTrainer):
    """Any network that the plans name."""


class FineTuneTrainer_unet(FineTuneTrainer):
    """MultiTalent's U-Net (plans made from its checkpoint name the network)."""


class FineTuneTrainer_resenc(FineTuneTrainer):
    """MultiTalent's residual-encoder U-Net (plans made from its checkpoint name the network)."""


class FineTuneTrainer_swinunetr(SwinUNETRSettings, FineTuneTrainer):
    """MONAI's SwinUNETR, with AdamW in all phases (needs the extra ``monai``)."""


class FineTuneTrainer_mednext(MedNeXtSettings, FineTuneTrainer):
    """MONAI's MedNeXt, with AdamW in all phases (needs the extra ``monai``)."""
