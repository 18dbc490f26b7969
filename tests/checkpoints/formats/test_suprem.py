from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("monai", reason="the extra 'monai' is not installed")
from monai.networks import nets

from nnunetv2_ext.checkpoints import read_checkpoint, transfer_weights
from nnunetv2_ext.checkpoints.model_folder import write_model_folder
from nnunetv2_ext.labels.label_order import LabelOrder
from nnunetv2_ext.utilities.errors import UserError


def turned(image):
    return image.permute(0, 1, 4, 3, 2)


def segresnet(outputs=25):
    torch.manual_seed(0)
    arguments: dict[str, Any] = {"init_filters": 8, "blocks_down": (1, 2, 2), "blocks_up": (1, 1), "dropout_prob": 0.0}
    return nets.SegResNet(spatial_dims=3, in_channels=1, out_channels=outputs, **arguments).eval()


def swinunetr():
    torch.manual_seed(0)
    return nets.SwinUNETR(in_channels=1, out_channels=25, feature_size=12).eval()


def write(network, prefix, path, without=(), **others):
    """As SuPreM's training does, with the optimiser beside the weights."""
    state = {f"module.{prefix}{name}": tensor for name, tensor in network.state_dict().items()}
    state = {name: tensor for name, tensor in state.items() if not name.endswith(tuple(without))}
    content = {"net": {**state, **others}, "optimizer": {"state": {}}, "scheduler": {"last_epoch": 2100}, "epoch": 2100}
    torch.save(content, path)
    return path


def test_segresnet_equals_monais_forward_and_has_a_sigmoid_per_class(tmp_path):
    network = segresnet()
    checkpoint = read_checkpoint(write(network, "", tmp_path / "supervised_suprem_segresnet_2100.pth"))
    assert checkpoint.format == "suprem"
    image = torch.randn(1, 1, 16, 24, 32)
    with torch.no_grad():
        found = checkpoint.build_network()(image)
        torch.testing.assert_close(found, turned(network(turned(image))), rtol=0, atol=1e-4)
    assert checkpoint.class_names == tuple(LabelOrder.read("abdomenatlas_1_1").labels)
    assert checkpoint.labels is not None
    assert checkpoint.labels["aorta"] == [1, 1]
    assert "CC BY-NC-ND 4.0 (no commercial use" in checkpoint.terms()[0]


def test_plans_clip_and_scale_as_published(tmp_path):
    from nnunetv2.preprocessing.normalization.default_normalization_schemes import CTNormalization

    checkpoint = read_checkpoint(write(segresnet(), "", tmp_path / "suprem.pth"))
    assert checkpoint.plans is not None
    assert checkpoint.plans["configurations"]["3d_fullres"]["spacing"] == [1.5, 1.5, 1.5]
    statistics = checkpoint.plans["foreground_intensity_properties_per_channel"]["0"]
    image = torch.linspace(-1000, 1000, 41).numpy()
    found = torch.from_numpy(CTNormalization(intensityproperties=statistics).run(image))
    expected = ((torch.linspace(-1000, 1000, 41) + 175) / 425).clamp(0, 1)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("with_head", [True, False])
def test_swinunetr_equals_monais_forward(with_head, tmp_path):
    network = swinunetr()
    others = {"module.controller.weight": torch.zeros(3), "module.organ_embedding": torch.zeros(25, 4)}
    without = () if with_head else ("out.conv.conv.weight", "out.conv.conv.bias")
    path = write(network, "backbone.", tmp_path / "suprem.pth", without, **others)
    checkpoint = read_checkpoint(path)
    assert (checkpoint.num_classes, checkpoint.absent) == ((25, ()) if with_head else (0, ("decoder.",)))
    ours: Any = checkpoint.build_network()
    image = torch.randn(1, 1, 32, 32, 64)
    with torch.no_grad():
        (features,) = ours.forward_features(image)
        network.out = torch.nn.Identity() if not with_head else network.out
        expected = turned(network(turned(image)))
        torch.testing.assert_close(ours(image) if with_head else features, expected, rtol=0, atol=1e-4)


def test_a_backbone_is_there_to_be_fine_tuned(tmp_path):
    without = ("out.conv.conv.weight", "out.conv.conv.bias")
    checkpoint = read_checkpoint(write(swinunetr(), "backbone.", tmp_path / "suprem.pth", without))
    assert "no segmentation heads" in checkpoint.describe()
    with pytest.raises(UserError, match=r"whole network .* has no decoder.*nnUNetv2_ext_finetune"):
        write_model_folder(checkpoint, tmp_path, "Dataset901_SuPreM")
    torch.manual_seed(1)
    network: Any = checkpoint.architecture.build(1, 3, deep_supervision=False)
    heads = network.decoder.seg_layers[0].weight.clone()
    report = transfer_weights(network, checkpoint, target_classes=["background", "a", "b"])
    assert report.names("reinitialised") == ["decoder.seg_layers.0.weight", "decoder.seg_layers.0.bias"]
    assert {entry.detail for entry in report.tensors} == {"", "not in the checkpoint"}
    assert torch.equal(network.decoder.seg_layers[0].weight, heads)
    for name, tensor in network.state_dict().items():
        assert name.startswith("decoder.") or torch.equal(tensor, checkpoint.network_state[name])


def test_other_numbers_of_classes_are_said(tmp_path):
    checkpoint = read_checkpoint(write(segresnet(9), "", tmp_path / "suprem.pth"))
    assert checkpoint.class_names is None
    assert any("Expected 25 outputs, those of AbdomenAtlas 1.1, but found 9" in note for note in checkpoint.notes)
