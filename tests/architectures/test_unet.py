"""The stock U-Nets with selectable heads are the stock U-Nets."""

from __future__ import annotations

import pytest
import torch
from dynamic_network_architectures.architectures import unet as stock
from torch import nn

from nnunetv2_ext.architectures import unet
from nnunetv2_ext.architectures.unet import with_selectable_heads


@pytest.mark.parametrize(
    ("name", "blocks"), [("PlainConvUNet", "n_conv_per_stage"), ("ResidualEncoderUNet", "n_blocks_per_stage")]
)
@pytest.mark.parametrize("deep_supervision", [True, False])
def test_names_and_outputs_are_those_of_the_stock_class(name, blocks, deep_supervision):
    arguments = {
        "input_channels": 2,
        "n_stages": 4,
        "features_per_stage": [4, 6, 8, 8],
        "conv_op": nn.Conv3d,
        "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3], [3, 3, 3]],
        "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2], [1, 2, 2]],
        "num_classes": 3,
        "n_conv_per_stage_decoder": [2, 1, 1],
        blocks: [1, 2, 1, 1],
        "conv_bias": True,
        "norm_op": nn.InstanceNorm3d,
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": nn.LeakyReLU,
        "nonlin_kwargs": {"inplace": True},
        "deep_supervision": deep_supervision,
    }
    reference, network = getattr(stock, name)(**arguments), getattr(unet, name)(**arguments)
    assert list(network.state_dict()) == list(reference.state_dict())
    network.load_state_dict(reference.state_dict())
    image = torch.randn(1, 2, 4, 16, 16)
    with torch.no_grad():
        expected, found = reference(image), network(image)
    for output, truth in zip(found, expected, strict=True):
        torch.testing.assert_close(output, truth, atol=0, rtol=0)


def test_only_stock_paths_are_replaced():
    for module in ("unet", "residual_unet"):
        path = f"dynamic_network_architectures.architectures.{module}.ResidualEncoderUNet"
        assert with_selectable_heads(path) == "nnunetv2_ext.architectures.unet.ResidualEncoderUNet"
    for path in ("monai.networks.nets.SwinUNETR", "dynamic_network_architectures.architectures.primus.PrimusS"):
        assert with_selectable_heads(path) == path
