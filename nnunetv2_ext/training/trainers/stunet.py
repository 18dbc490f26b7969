"""STU-Net trainers, under the names of the published code so that commands in papers keep working.

Huang et al., "STU-Net: Scalable and Transferable Medical Image Segmentation Models Empowered by Large-Scale Supervised
Pre-training", arXiv:2304.06716. ``_ft`` fine-tunes with an initial learning rate of 1e-3; ``_ft_warmup`` does so after
warming up the heads and then the network; ``_ep2k`` and ``_ep4k`` train for 2000 and 4000 epochs. All else is nnU-Net's
default.
"""

from __future__ import annotations

from nnunetv2_ext.training.trainers.base import ExtTrainer
from nnunetv2_ext.training.trainers.networks import STUNetFromPlans
from nnunetv2_ext.training.trainers.warmup import WarmUpTrainer

__all__ = [
    "STUNetTrainer",
    "STUNetTrainer_base",
    "STUNetTrainer_base_ep2k",
    "STUNetTrainer_base_ep4k",
    "STUNetTrainer_base_ft",
    "STUNetTrainer_base_ft_warmup",
    "STUNetTrainer_huge",
    "STUNetTrainer_huge_ep2k",
    "STUNetTrainer_huge_ep4k",
    "STUNetTrainer_huge_ft",
    "STUNetTrainer_huge_ft_warmup",
    "STUNetTrainer_large",
    "STUNetTrainer_large_ep2k",
    "STUNetTrainer_large_ep4k",
    "STUNetTrainer_large_ft",
    "STUNetTrainer_large_ft_warmup",
    "STUNetTrainer_small",
    "STUNetTrainer_small_ep2k",
    "STUNetTrainer_small_ep4k",
    "STUNetTrainer_small_ft",
    "STUNetTrainer_small_ft_warmup",
]


class STUNetTrainer_small(ExtTrainer):
    """STU-Net S (14.6 M parameters)."""

    architecture = STUNetFromPlans("S")


class STUNetTrainer_small_ft(STUNetTrainer_small):
    """STU-Net S, fine-tuning."""

    initial_lr = 1e-3


class STUNetTrainer_small_ft_warmup(STUNetTrainer_small_ft, WarmUpTrainer):
    """STU-Net S, fine-tuning after a warm-up of heads and network."""


class STUNetTrainer_small_ep2k(STUNetTrainer_small):
    """STU-Net S, 2000 epochs."""

    num_epochs = 2000


class STUNetTrainer_small_ep4k(STUNetTrainer_small):
    """STU-Net S, 4000 epochs."""

    num_epochs = 4000


class STUNetTrainer_base(ExtTrainer):
    """STU-Net B (58.3 M parameters)."""

    architecture = STUNetFromPlans("B")


class STUNetTrainer_base_ft(STUNetTrainer_base):
    """STU-Net B, fine-tuning."""

    initial_lr = 1e-3


class STUNetTrainer_base_ft_warmup(STUNetTrainer_base_ft, WarmUpTrainer):
    """STU-Net B, fine-tuning after a warm-up of heads and network."""


class STUNetTrainer_base_ep2k(STUNetTrainer_base):
    """STU-Net B, 2000 epochs."""

    num_epochs = 2000


class STUNetTrainer_base_ep4k(STUNetTrainer_base):
    """STU-Net B, 4000 epochs."""

    num_epochs = 4000


class STUNetTrainer_large(ExtTrainer):
    """STU-Net L (440 M parameters)."""

    architecture = STUNetFromPlans("L")


class STUNetTrainer_large_ft(STUNetTrainer_large):
    """STU-Net L, fine-tuning."""

    initial_lr = 1e-3


class STUNetTrainer_large_ft_warmup(STUNetTrainer_large_ft, WarmUpTrainer):
    """STU-Net L, fine-tuning after a warm-up of heads and network."""


class STUNetTrainer_large_ep2k(STUNetTrainer_large):
    """STU-Net L, 2000 epochs."""

    num_epochs = 2000


class STUNetTrainer_large_ep4k(STUNetTrainer_large):
    """STU-Net L, 4000 epochs."""

    num_epochs = 4000


class STUNetTrainer_huge(ExtTrainer):
    """STU-Net H (1.46 G parameters)."""

    architecture = STUNetFromPlans("H")


class STUNetTrainer_huge_ft(STUNetTrainer_huge):
    """STU-Net H, fine-tuning."""

    initial_lr = 1e-3


class STUNetTrainer_huge_ft_warmup(STUNetTrainer_huge_ft, WarmUpTrainer):
    """STU-Net H, fine-tuning after a warm-up of heads and network."""


class STUNetTrainer_huge_ep2k(STUNetTrainer_huge):
    """STU-Net H, 2000 epochs."""

    num_epochs = 2000


class STUNetTrainer_huge_ep4k(STUNetTrainer_huge):
    """STU-Net H, 4000 epochs."""

    num_epochs = 4000


class STUNetTrainer(STUNetTrainer_base):
    """STU-Net B under the name that the published code gives its base trainer."""
