from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

pytest.importorskip("monai", reason="the extra 'monai' is not installed")
from monai.networks import nets

from nnunetv2_ext.checkpoints import read_checkpoint, transfer_weights
from nnunetv2_ext.utilities.errors import UserError

CONFIG = {"spatial_dims": 3, "init_filters": 8, "in_channels": 1, "out_channels": 5, "blocks_down": [1, 2, 1],
          "dsdepth": 2}  # fmt: skip


def segresnet_ds(**changes):
    torch.manual_seed(0)
    network = nets.SegResNetDS(**{**CONFIG, "blocks_down": (1, 2, 1), **changes})
    for name, buffer in network.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.uniform_(0.5, 1.5)
    return network.eval()


def write_safetensors(network, folder, config=CONFIG):
    save_file(
        {name: tensor.contiguous() for name, tensor in network.state_dict().items()}, folder / "model.safetensors"
    )
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder / "model.safetensors"


def write_lightning(network, path, member, prefixes=("",)):
    """A Lightning file: the network is a member of a training module that has others."""
    state = {f"{member}{name}": t for name, t in network.state_dict().items() if name.startswith(tuple(prefixes))}
    others = {"projection_head.weight": torch.zeros(4), "epoch": 3, "pytorch-lightning_version": "2.4.0"}
    torch.save({"state_dict": {**state, "projection_head.weight": torch.zeros(4)}, **others}, path)
    return path


@pytest.mark.parametrize(
    "changes",
    [{}, {"norm": "instance"}, {"dsdepth": 1, "upsample_mode": "nontrainable"}, {"blocks_up": (2, 1)}],
    ids=["batch norm", "instance norm", "one level, interpolated", "longer decoder"],
)
def test_equals_monais_forward_at_every_level(changes, tmp_path):
    network = segresnet_ds(**changes)
    config = {**CONFIG, "dsdepth": changes.get("dsdepth", 2)}
    checkpoint = read_checkpoint(write_safetensors(network, tmp_path, config))
    assert checkpoint.format == "ctfm"
    image = torch.randn(1, 1, 8, 12, 16)
    ours = checkpoint.build_network(deep_supervision=True)
    with torch.no_grad():
        outputs = ours(image)
        torch.testing.assert_close(outputs[0], network(image), rtol=0, atol=1e-4)
        network.train()
        # In training mode MONAI's network returns all levels; its batch norm stays as it is.
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm3d):
                module.eval()
        expected = network(image)
    expected = expected if isinstance(expected, list) else [expected]
    assert len(outputs) == len(expected) == config["dsdepth"]
    for output, other in zip(outputs, expected, strict=True):
        torch.testing.assert_close(output, other, rtol=0, atol=1e-4)
    assert "Apache-2.0" in checkpoint.terms()[0]


def test_the_whole_body_network_brings_its_labels_and_settings(tmp_path):
    config = {**CONFIG, "out_channels": 118, "dsdepth": 1}
    checkpoint = read_checkpoint(write_safetensors(segresnet_ds(out_channels=118, dsdepth=1), tmp_path, config))
    assert checkpoint.class_names is not None
    assert checkpoint.class_names[:3] == ("background", "spleen", "kidney_right")
    assert checkpoint.plans is not None
    assert checkpoint.plans["configurations"]["3d_fullres"]["patch_size"] == [96, 160, 160]
    assert checkpoint.preprocessing_profile is not None
    assert checkpoint.preprocessing_profile["orientation"] == "LPS"
    assert checkpoint.preprocessing_profile["spacing"] is None


@pytest.mark.parametrize("member", ["backbone.", "model.", "net.", "network.", "model.network.", "module.backbone."])
def test_lightning_calls_the_network_by_many_names(member, tmp_path):
    network = segresnet_ds()
    checkpoint = read_checkpoint(write_lightning(network, tmp_path / "last.ckpt", member))
    assert checkpoint.format == "ctfm"
    image = torch.randn(1, 1, 8, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(checkpoint.build_network()(image), network(image), rtol=0, atol=1e-4)


def test_the_encoder_alone_starts_a_fine_tuning(tmp_path):
    network = segresnet_ds()
    checkpoint = read_checkpoint(write_lightning(network, tmp_path / "last.ckpt", "backbone.", ("encoder.",)))
    assert checkpoint.absent == ("decoder.", "up_layers.")
    image = torch.randn(1, 1, 8, 8, 8)
    built: Any = checkpoint.build_network()
    with torch.no_grad():
        for ours, theirs in zip(built.encoder(image), network.encoder(image), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    target = checkpoint.architecture.build(2, 3, deep_supervision=False)
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    report = transfer_weights(target, checkpoint, target_classes=["background", "a", "b"])
    after = target.state_dict()
    encoder = [name for name in after if name.startswith("encoder.")]
    assert set(report.names("loaded")) == set(encoder) - {"encoder.conv_init.weight"}
    assert torch.equal(after["encoder.conv_init.weight"][:, 1:], network.encoder.conv_init.weight / 2)
    assert all(torch.equal(after[name], before[name]) for name in after if name not in encoder)


def test_a_config_of_another_network_is_refused(tmp_path):
    path = write_safetensors(segresnet_ds(), tmp_path, {**CONFIG, "init_filters": 32})
    with pytest.raises(UserError, match=r"Expected a SegResNetDS with init_filters 32, .* holds one with 8"):
        read_checkpoint(path)
    (tmp_path / "config.json").write_text("[1]", encoding="utf-8")
    with pytest.raises(UserError, match=r"config.json"):
        read_checkpoint(path)


def test_truncated_names_end_in_a_sentence(tmp_path):
    state = segresnet_ds().state_dict()
    del state["encoder.layers.1.blocks.1.conv2.weight"]
    torch.save({"state_dict": state}, tmp_path / "last.ckpt")
    with pytest.raises(UserError, match=r"1 tensors are missing"):
        read_checkpoint(tmp_path / "last.ckpt").build_network()
