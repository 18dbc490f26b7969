"""Losses that learn from what a case annotates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nnunetv2_ext.utilities.lazy import lazy_names

if TYPE_CHECKING:
    from nnunetv2_ext.training.loss.label_tree_loss import LabelTreeLoss
    from nnunetv2_ext.training.loss.partial_label_loss import PartialLabelLoss
    from nnunetv2_ext.training.loss.source_heads_loss import SourceHeadsLoss

__all__ = ["LabelTreeLoss", "PartialLabelLoss", "SourceHeadsLoss"]

__getattr__ = lazy_names(
    __name__,
    {
        "LabelTreeLoss": "label_tree_loss",
        "PartialLabelLoss": "partial_label_loss",
        "SourceHeadsLoss": "source_heads_loss",
    },
)
