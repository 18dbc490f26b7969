"""What a voxel value means."""

from nnunetv2_ext.labels.label_mapping import LabelMapping, MappedClass, list_mappings
from nnunetv2_ext.labels.label_order import LabelOrder, list_label_orders
from nnunetv2_ext.labels.partial_labels import PartialLabels, Source

__all__ = [
    "LabelMapping",
    "LabelOrder",
    "MappedClass",
    "PartialLabels",
    "Source",
    "list_label_orders",
    "list_mappings",
]
