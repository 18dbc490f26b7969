"""nnU-Net's own U-Nets with heads that can be evaluated one by one.

Same constructor arguments, same state dict names, same numbers as the stock classes of
``dynamic_network_architectures``; only `SelectableHeads` is added.
"""

from __future__ import annotations

from dynamic_network_architectures.architectures import unet

from nnunetv2_ext.architectures.segmentation_heads import SelectableHeads


class PlainConvUNet(SelectableHeads, unet.PlainConvUNet):
    """nnU-Net's default U-Net; the architecture of the published MultiTalent U-Net."""


class ResidualEncoderUNet(SelectableHeads, unet.ResidualEncoderUNet):
    """nnU-Net's residual-encoder U-Net (ResEnc M, L, XL)."""


_STOCK_MODULES = (
    "dynamic_network_architectures.architectures.unet",
    # Where plans written by older versions of nnU-Net look for the residual U-Net.
    "dynamic_network_architectures.architectures.residual_unet",
)


def with_selectable_heads(class_path: str) -> str:
    """The dotted path of this module's counterpart of a stock network; other paths are returned unchanged.

    Example:
        >>> with_selectable_heads("dynamic_network_architectures.architectures.unet.PlainConvUNet")
        'nnunetv2_ext.architectures.unet.PlainConvUNet'
    """
    module, _, name = class_path.rpartition(".")
    if module in _STOCK_MODULES and name in (PlainConvUNet.__name__, ResidualEncoderUNet.__name__):
        return f"{__name__}.{name}"
    return class_path
