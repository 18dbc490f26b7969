"""What all trainers of SwinUNETR share."""

from __future__ import annotations

from nnunetv2_ext.architectures.planned import SwinUNETRForPlans
from nnunetv2_ext.training.trainers.base import ExtTrainer


class SwinUNETRSettings(ExtTrainer):
    """MONAI's SwinUNETR with the optimiser of the published MultiTalent: AdamW, 5e-4, no deep supervision.

    The usual 1e-8 in the denominator of AdamW's step vanishes in half precision.
    """

    architecture = SwinUNETRForPlans()
    initial_lr = 5e-4
    enable_deep_supervision = False
    optimizer_name = "adamw"
    adam_epsilon = 1e-4
