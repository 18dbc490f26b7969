from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("monai", reason="the extra 'monai' is not installed")
from monai.networks import nets

from nnunetv2_ext.architectures.monai_networks import SegResNet, UNet

SEGRESNET: dict[str, Any] = {"init_filters": 8, "blocks_down": (1, 2), "blocks_up": (1,), "dropout_prob": 0.2}
UNET: dict[str, Any] = {"channels": (4, 8, 16), "strides": ([2, 2, 2], [2, 2, 2])}


def test_segresnet_is_monais_with_the_head_in_the_decoder():
    torch.manual_seed(0)
    theirs = nets.SegResNet(3, in_channels=1, out_channels=5, **SEGRESNET).eval()
    ours = SegResNet(1, 5, **SEGRESNET).eval()
    names = {
        name.replace("conv_final.2.conv", "decoder.seg_layers.0"): value for name, value in theirs.state_dict().items()
    }
    ours.load_state_dict(names)
    image = torch.randn(1, 1, 8, 12, 16)
    with torch.no_grad():
        torch.testing.assert_close(ours(image), theirs(image))
        torch.testing.assert_close(ours(image, torch.tensor([3, 1])), theirs(image)[:, [3, 1]])


def test_published_sizes():
    whole_body = SegResNet(1, 105)
    assert sum(parameter.numel() for parameter in whole_body.parameters()) == 18_799_401
    assert len(whole_body.state_dict()) == 83
    spleen = UNet(1, 2)
    assert sum(parameter.numel() for parameter in spleen.parameters()) == 4_808_917
    assert len(spleen.state_dict()) == 148


def test_unet_is_monais():
    torch.manual_seed(0)
    theirs = nets.UNet(3, 1, 2, (4, 8, 16), (2, 2), num_res_units=2, norm="batch").eval()
    ours = UNet(1, 2, **UNET).eval()
    ours.load_state_dict(theirs.state_dict())
    image = torch.randn(1, 1, 8, 12, 16)
    with torch.no_grad():
        torch.testing.assert_close(ours(image), theirs(image))


@pytest.mark.parametrize(("network", "arguments"), [(SegResNet, SEGRESNET), (UNet, UNET)])
def test_the_switch_of_deep_supervision_makes_a_list_of_one_level(network, arguments):
    module = network(1, 2, deep_supervision=True, **arguments).eval()
    image = torch.randn(1, 1, 8, 8, 8)
    with torch.no_grad():
        (level,) = module(image)
        module.decoder.deep_supervision = False
        torch.testing.assert_close(module(image), level)
