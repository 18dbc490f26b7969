"""Read any supported checkpoint safely, transfer its weights, write nnU-Net model folders."""

from nnunetv2_ext.checkpoints.checkpoint import Checkpoint
from nnunetv2_ext.checkpoints.heads import check_class_mapping
from nnunetv2_ext.checkpoints.reading import read_checkpoint, write_safetensors
from nnunetv2_ext.checkpoints.transfer import TransferReport, transfer_weights

__all__ = [
    "Checkpoint",
    "TransferReport",
    "check_class_mapping",
    "read_checkpoint",
    "transfer_weights",
    "write_safetensors",
]
