"""The last layer of a network: its heads, one per class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from nnunetv2_ext.architectures.segmentation_heads import shallow_copy
from nnunetv2_ext.utilities.errors import UserError


def select_heads(network: nn.Module, channels: Sequence[int]) -> nn.Module:
    """A network of some of the output channels, in the order given; the others are not computed.

    Args:
        network: Ends with the 1x1 convolution ``decoder.seg_layers[-1]``, as nnU-Net's networks do; left as it is.
        channels: Output channels to keep.

    Returns:
        A network that shares all other weights with the one given.

    Raises:
        UserError: The network has no such layer.
    """
    heads = segmentation_heads(network)
    if heads is None:
        raise UserError(
            f"Expected a network with decoder.seg_layers to leave classes out, but {type(network).__name__} has none; "
            "predict without --classes."
        )
    head = heads[-1]
    reduced = type(head)(head.in_channels, len(channels), head.kernel_size, head.stride, bias=head.bias is not None)
    reduced.load_state_dict({name: tensor[list(channels)] for name, tensor in head.state_dict().items()})
    clone = shallow_copy(network)
    clone.decoder = shallow_copy(clone.get_submodule("decoder"))
    clone.decoder.seg_layers = nn.ModuleList([*heads[:-1], reduced.eval().requires_grad_(False)])
    return clone


def segmentation_heads(network: nn.Module) -> Any:
    """The 1x1 convolutions ``decoder.seg_layers``, the last at full resolution; None where a network has none."""
    heads = getattr(getattr(network, "decoder", None), "seg_layers", None)
    return heads if isinstance(heads, nn.ModuleList) and hasattr(heads[-1], "in_channels") else None
