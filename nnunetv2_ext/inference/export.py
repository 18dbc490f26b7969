"""Where the design fixes the name of `resample_argmax`; the work is in `deciding`."""

from nnunetv2_ext.inference.deciding.resample import resample_argmax

__all__ = ["resample_argmax"]
