"""STU-Net trainers, under the names of the published code so that commands in papers keep working.

Huang et al., "STU-Net: Scalable and Transferable Medical Image Segmentation Models Empowered by Large-Scale Supervised
Pre-training", arXiv:2304.06716. ``_ft`` fine-tunes with an initial learning rate of 1e-3; ``_ft_warmup`` does so after
warming up the heads and then the network; ``_ep2k`` and ``_ep4k`` train for 2000 and 4000 epochs. All else is nnU-Net's
default.
"""

from __future__ import annotations

from nnunetv2_ext.training.trainers.base import ExtTrainer  # noqa: F401
from nnunetv2_ext.training.trainers.warmup import WarmUpTrainer  # noqa: F401
from nnunetv2_ext.training.variants import define_variants

__all__ = define_variants(globals())  # noqa: PLE0605
