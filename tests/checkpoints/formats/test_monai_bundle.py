from __future__ import annotations

import sys
from typing import Any

import pytest
import torch

pytest.importorskip("monai", reason="the extra 'monai' is not installed")
from monai.networks import nets

from nnunetv2_ext.checkpoints import read_checkpoint
from nnunetv2_ext.utilities.errors import UserError


def segresnet(**changes):
    arguments: dict[str, Any] = {
        "in_channels": 1,
        "out_channels": 5,
        "init_filters": 8,
        "blocks_down": (1, 2, 3),
        "blocks_up": (2, 1),
    }
    return nets.SegResNet(spatial_dims=3, dropout_prob=0.2, **(arguments | changes))


def unet(**changes):
    arguments: dict[str, Any] = {"channels": (4, 8, 16, 32), "strides": (2, 2, 2), "num_res_units": 2, "norm": "batch"}
    return nets.UNet(spatial_dims=3, in_channels=1, out_channels=2, **(arguments | changes))


@pytest.mark.parametrize("wrapped", [False, True], ids=["bare", "under model"])
@pytest.mark.parametrize(
    "build",
    [segresnet, lambda: segresnet(blocks_down=(1, 2, 2, 4), blocks_up=(1, 1, 1)), unet, lambda: unet(num_res_units=3)],
    ids=["segresnet", "segresnet of published depth", "unet", "unet with three units"],
)
def test_equals_monais_forward_on_turned_axes(build, wrapped, tmp_path):
    torch.manual_seed(0)
    network = build()
    # Statistics that a fresh batch norm does not have.
    for name, buffer in network.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.uniform_(0.5, 1.5)
    state = network.state_dict()
    torch.save({"model": state} if wrapped else state, tmp_path / "model.pt")
    checkpoint = read_checkpoint(tmp_path / "model.pt")
    assert checkpoint.format == "monai_bundle"
    image_zyx = torch.randn(1, 1, 16, 24, 32)
    with torch.no_grad():
        found = checkpoint.build_network()(image_zyx)
        expected = network.eval()(image_zyx.permute(0, 1, 4, 3, 2)).permute(0, 1, 4, 3, 2)
        unturned = network(image_zyx)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    assert (unturned - expected).abs().max() > 1e-2


def test_published_networks_bring_their_labels_and_settings(tmp_path):
    torch.save(nets.SegResNet(3, 32, 1, 105, 0.2, blocks_down=(1, 2, 2, 4)).state_dict(), tmp_path / "model_lowres.pt")
    checkpoint = read_checkpoint(tmp_path / "model_lowres.pt")
    assert checkpoint.class_names is not None
    assert checkpoint.class_names[:2] == ("background", "spleen")
    assert checkpoint.plans_template == "wholebody_ct_segresnet_3mm"
    assert checkpoint.preprocessing_profile is not None
    assert checkpoint.preprocessing_profile["spacing"] == [3.0, 3.0, 3.0]
    torch.save(unet(channels=(16, 32, 64, 128, 256), strides=(2, 2, 2, 2)).state_dict(), tmp_path / "model.pt")
    checkpoint = read_checkpoint(tmp_path / "model.pt")
    assert checkpoint.class_names == ("background", "spleen")
    assert checkpoint.plans_template == "spleen_ct_unet"


def test_without_monai_reading_says_what_to_install(tmp_path, monkeypatch):
    torch.save(unet(channels=(16, 32, 64, 128, 256), strides=(2, 2, 2, 2)).state_dict(), tmp_path / "model.pt")
    monkeypatch.setitem(sys.modules, "monai", None)
    with pytest.raises(UserError, match=r"needs monai, .*pip install 'nnunetv2-ext\[monai\]'"):
        read_checkpoint(tmp_path / "model.pt")


def test_torchscript_and_other_networks_are_refused(tmp_path):
    torch.jit.trace(unet().eval(), torch.zeros(1, 1, 16, 16, 16)).save(str(tmp_path / "model.ts"))
    with pytest.raises(UserError, match="TorchScript"):
        read_checkpoint(tmp_path / "model.ts")
    torch.save(segresnet(upsample_mode="deconv").state_dict(), tmp_path / "deconv.pt")
    with pytest.raises(UserError, match="learned upsampling"):
        read_checkpoint(tmp_path / "deconv.pt")
    flat = nets.UNet(2, 1, 2, (4, 8), (2,), num_res_units=2)
    torch.save(flat.state_dict(), tmp_path / "flat.pt")
    with pytest.raises(UserError, match="2D"):
        read_checkpoint(tmp_path / "flat.pt")
