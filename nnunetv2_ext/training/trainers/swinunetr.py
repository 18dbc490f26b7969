"""What all trainers of SwinUNETR share."""

from __future__ import annotations

import torch

from nnunetv2_ext.architectures.planned import SwinUNETRForPlans
from nnunetv2_ext.training.trainers.base import ExtTrainer


class SwinUNETRSettings(ExtTrainer):
    """MONAI's SwinUNETR with the optimiser of the published MultiTalent: AdamW, 5e-4, no deep supervision.

    Attributes:
        adam_epsilon: Added to the denominator of AdamW's step; its default of 1e-8 vanishes in half precision.
    """

    architecture = SwinUNETRForPlans()
    initial_lr = 5e-4
    enable_deep_supervision = False
    adam_epsilon: float = 1e-4

    def make_optimizer(self) -> torch.optim.Optimizer:
        """AdamW over the whole network."""
        return torch.optim.AdamW(
            self.bare_network.parameters(), self.initial_lr, weight_decay=self.weight_decay, eps=self.adam_epsilon
        )
