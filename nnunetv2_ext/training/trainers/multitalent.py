"""MultiTalent: trainers for collections of partially labelled datasets.

Ulrich et al., "MultiTalent: A Multi-dataset Approach to Medical Image Segmentation", MICCAI 2023,
https://arxiv.org/abs/2303.14444. The paper trains 2000 epochs (``_2000ep``) with the plans ``multitalent_unet`` and
``multitalent_resenc``; other numbers of epochs are nnU-Net's default.

A further network is an entry of `training/variants.py`, or a class of a few lines; see docs/extend.md.
"""

from __future__ import annotations

from nnunetv2_ext.training.trainers.mednext import MedNeXtSettings
from nnunetv2_ext.training.trainers.partial_labels import PartialLabelTrainer
from nnunetv2_ext.training.trainers.swinunetr import SwinUNETRSettings
from nnunetv2_ext.training.variants import define_variants


class MultiTalentTrainer_swinunetr(SwinUNETRSettings, PartialLabelTrainer):
    """MONAI's SwinUNETR (needs the extra ``monai``)."""


class MultiTalentTrainer_mednext(MedNeXtSettings, PartialLabelTrainer):
    """The MedNeXt that the plans name (needs the extra ``monai``)."""


__all__ = ["MultiTalentTrainer_mednext", "MultiTalentTrainer_swinunetr", *define_variants(globals())]  # noqa: PLE0604
