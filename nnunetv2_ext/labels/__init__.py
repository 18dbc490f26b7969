"""What a voxel value means."""

from nnunetv2_ext.labels.partial_labels import PartialLabels, Source

__all__ = ["PartialLabels", "Source"]
