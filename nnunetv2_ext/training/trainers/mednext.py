"""Trainers of MedNeXt.

Roy et al., "MedNeXt: Transformer-driven Scaling of ConvNets for Medical Image Segmentation", MICCAI 2023,
https://arxiv.org/abs/2303.09975: AdamW with an initial learning rate of 1e-3; all else is nnU-Net's default. With
kernels of 5 the paper starts from a network that was trained with kernels of 3 (UpKern, section 2.3): give that one as
``-pretrained_weights`` to a trainer ``_kernel5``. Needs the extra ``monai``.
"""

from __future__ import annotations

from typing import ClassVar

from nnunetv2_ext.architectures.planned import FromPlans, MedNeXtFromPlans
from nnunetv2_ext.training.trainers.base import ExtTrainer
from nnunetv2_ext.training.variants import define_variants


class MedNeXtSettings(ExtTrainer):
    """What all trainers of MedNeXt share."""

    architecture: ClassVar[FromPlans] = MedNeXtFromPlans()
    initial_lr = 1e-3
    optimizer_name = "adamw"
    # The usual 1e-8 vanishes in half precision.
    adam_epsilon = 1e-4


class MedNeXtTrainer(MedNeXtSettings):
    """The MedNeXt that the plans name."""


__all__ = ["MedNeXtTrainer", *define_variants(globals())]  # noqa: PLE0604
