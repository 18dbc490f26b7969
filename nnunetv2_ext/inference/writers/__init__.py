"""Writing label maps: one file per format, all with the names of their classes where the format can hold them."""

from nnunetv2_ext.inference.writers.label_map import (
    OUTPUT_TYPES,
    is_complete,
    label_type,
    write_label_map,
    write_names,
)

__all__ = ["OUTPUT_TYPES", "is_complete", "label_type", "write_label_map", "write_names"]
