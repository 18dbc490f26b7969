"""STU-Net, MultiTalent, SALT label trees and MONAI bundles for an unmodified nnU-Net v2.

The names below are the public interface in Python; they are imported when they are first used, so that importing the
package costs neither torch nor nnU-Net.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nnunetv2_ext.utilities.lazy import lazy_names

if TYPE_CHECKING:
    from nnunetv2_ext.architectures.stunet import STUNet
    from nnunetv2_ext.checkpoints.reading import read_checkpoint
    from nnunetv2_ext.checkpoints.transfer import transfer_weights
    from nnunetv2_ext.evaluation.evaluate import evaluate_folder
    from nnunetv2_ext.inference.predictor import Predictor
    from nnunetv2_ext.labels.label_order import LabelOrder
    from nnunetv2_ext.labels.label_tree import LabelTree
    from nnunetv2_ext.labels.partial_labels import PartialLabels
    from nnunetv2_ext.training.loss.label_tree_loss import LabelTreeLoss
    from nnunetv2_ext.training.loss.partial_label_loss import PartialLabelLoss

__version__ = "0.1.0"

__all__ = [
    "LabelOrder",
    "LabelTree",
    "LabelTreeLoss",
    "PartialLabelLoss",
    "PartialLabels",
    "Predictor",
    "STUNet",
    "evaluate_folder",
    "read_checkpoint",
    "transfer_weights",
]

__getattr__ = lazy_names(
    __name__,
    {
        "LabelOrder": "labels.label_order",
        "LabelTree": "labels.label_tree",
        "LabelTreeLoss": "training.loss.label_tree_loss",
        "PartialLabelLoss": "training.loss.partial_label_loss",
        "PartialLabels": "labels.partial_labels",
        "Predictor": "inference.predictor",
        "STUNet": "architectures.stunet",
        "evaluate_folder": "evaluation.evaluate",
        "read_checkpoint": "checkpoints.reading",
        "transfer_weights": "checkpoints.transfer",
    },
)
