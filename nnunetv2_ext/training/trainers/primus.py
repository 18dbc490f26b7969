"""The trainer of Primus.

Wald et al., "Primus: Enforcing Attention Usage for 3D Medical Image Segmentation", 2025,
https://arxiv.org/abs/2503.01835: AdamW with 3e-4 and a weight decay of 5e-2; the warm-up of its schedule is left out.
"""

from __future__ import annotations

from nnunetv2_ext.architectures.planned import FromPlans
from nnunetv2_ext.training.trainers.base import ExtTrainer

__all__ = ["PrimusTrainer"]


class PrimusTrainer(ExtTrainer):
    """The Primus that the plans name, for datasets whose classes exclude each other and for regions."""

    architecture = FromPlans(plans_for="primus.Primus")
    initial_lr = 3e-4
    weight_decay = 5e-2
    optimizer_name = "adamw"
    enable_deep_supervision = False
