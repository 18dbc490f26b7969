from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from dynamic_network_architectures.architectures import primus, unet
from scipy.ndimage import map_coordinates
from torch import nn

from nnunetv2_ext.checkpoints import read_checkpoint, transfer_weights
from nnunetv2_ext.utilities.errors import UserError

STAGES = {
    "n_stages": 3,
    "features_per_stage": [4, 6, 8],
    "conv_op": nn.Conv3d,
    "kernel_sizes": [(3, 3, 3)] * 3,
    "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]],
    "n_conv_per_stage_decoder": [1, 1],
    "conv_bias": True,
    "norm_op": nn.InstanceNorm3d,
    "norm_op_kwargs": {"eps": 1e-5, "affine": True},
    "nonlin": nn.LeakyReLU,
    "nonlin_kwargs": {"inplace": True},
}
PRIMUS = {"embed_dim": 36, "patch_embed_size": (8, 8, 8), "eva_depth": 2, "eva_numheads": 6, "init_values": 0.1,
          "scale_attn_inner": True}  # fmt: skip
CLASSES = ["background", "a", "b"]


def resenc(outputs=1):
    torch.manual_seed(0)
    return unet.ResidualEncoderUNet(1, num_classes=outputs, n_blocks_per_stage=[1, 2, 1], **STAGES).eval()


def tiny_primus(shape=(16, 24, 16), outputs=1, **changes):
    torch.manual_seed(0)
    network = primus.Primus(1, num_classes=outputs, input_shape=shape, **{**PRIMUS, **changes})
    return network.eval()


def write(network, path, name, arch_kwargs=None, encoder="encoder.stages", stem="encoder.stem", **changes):
    """As nnssl writes a checkpoint, its adaptation plan serialised."""
    if arch_kwargs is not None:
        arch_kwargs = {
            key: f"{value.__module__}.{value.__name__}" if isinstance(value, type) else value
            for key, value in {**arch_kwargs, "dropout_op": None, "dropout_op_kwargs": None}.items()
        }
    configuration = {
        "data_identifier": "nnsslPlans_onemmiso",
        "preprocessor_name": "DefaultPreprocessor",
        "spacing_style": "onemmiso",
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        "spacing": [1, 1, 1],
        "patch_size": changes.pop("patch_size", [16, 24, 16]),
    }
    plan = {
        "architecture_plans": {"arch_class_name": name, "arch_kwargs": arch_kwargs,
                               "arch_kwargs_requiring_import": ["conv_op", "norm_op", "nonlin"]},
        "pretrain_plan": {"dataset_name": "Dataset745_OpenMind", "plans_name": "nnsslPlans",
                          "configurations": {"onemmiso": configuration}},
        "pretrain_num_input_channels": 1,
        "recommended_downstream_patchsize": [24, 24, 32],
        "key_to_encoder": encoder,
        "key_to_stem": stem,
        "keys_to_in_proj": ["encoder.stem.convs.0.conv", "encoder.stem.convs.0.all_modules.0"],
    }  # fmt: skip
    content = {
        "network_weights": network if isinstance(network, dict) else network.state_dict(),
        "nnssl_adaptation_plan": plan | changes,
        "trainer_name": "BaseMAETrainer",
        "init_args": {"configuration_name": "onemmiso", "fold": "all"},
        "current_epoch": 1000,
        "optimizer_state": {"state": {}},
        "logging": {"train_losses": [0.5]},
    }
    torch.save(content, path)
    return path


@pytest.mark.parametrize("name", ["ResEncL", "ResidualEncoderUNet"])
def test_residual_encoders_equal_the_original_forward(name, tmp_path):
    network = resenc()
    arguments = None if name == "ResEncL" else {"n_blocks_per_stage": [1, 2, 1], **STAGES}
    checkpoint = read_checkpoint(write(network, tmp_path / "checkpoint_final.pth", name, arguments))
    assert checkpoint.format == "nnssl"
    assert checkpoint.absent == ("decoder.seg_layers.",)
    ours: Any = checkpoint.build_network()
    image = torch.randn(1, 1, 8, 16, 12)
    with torch.no_grad():
        for found, expected in zip(ours.encoder(image), network.encoder(image), strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
        # With the head of the pretraining, the decoder too computes what it did there.
        ours.decoder.seg_layers.load_state_dict(network.decoder.seg_layers.state_dict())
        torch.testing.assert_close(ours(image), network(image), rtol=0, atol=1e-4)
    assert checkpoint.plans is not None
    planned = checkpoint.plans["configurations"]["3d_fullres"]
    assert (planned["spacing"], planned["patch_size"]) == ([1, 1, 1], [24, 24, 32])
    assert checkpoint.normalization is not None
    assert checkpoint.normalization["normalization_schemes"] == ["ZScoreNormalization"]


def test_an_encoder_that_is_called_otherwise_is_found_and_another_decoder_left_out(tmp_path):
    network = resenc()
    state = {f"student.{name}": tensor for name, tensor in network.state_dict().items() if name.startswith("encoder.")}
    state |= {
        "decoder.stages.0.convs.0.conv.weight": torch.zeros(8, 8, 3, 3, 3),
        "densify_norms.0.weight": torch.zeros(4),
    }
    path = write(
        state, tmp_path / "c.pth", "NoSkipResEncL", encoder="student.encoder.stages", stem="student.encoder.stem"
    )
    checkpoint = read_checkpoint(path)
    assert checkpoint.absent == ("decoder.",)
    target = resenc(outputs=3)
    fresh = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    torch.manual_seed(1)
    target.apply(lambda module: module.reset_parameters() if hasattr(module, "reset_parameters") else None)
    report = transfer_weights(target, checkpoint, target_classes=CLASSES)
    after = target.state_dict()
    assert all(torch.equal(after[name], fresh[name]) for name in after if name.startswith("encoder."))
    assert {entry.outcome for entry in report.tensors if entry.name.startswith("decoder.")} == {"reinitialised"}


def test_plain_u_nets_of_plans(tmp_path):
    torch.manual_seed(0)
    network = unet.PlainConvUNet(1, num_classes=1, n_conv_per_stage=[2, 1, 1], **STAGES).eval()
    arguments = {"n_conv_per_stage": [2, 1, 1], **STAGES}
    path = write(network, tmp_path / "c.pth", "PlainConvUNet", arguments, stem="encoder.stages.0")
    checkpoint = read_checkpoint(path)
    image = torch.randn(1, 1, 8, 8, 8)
    ours: Any = checkpoint.build_network()
    with torch.no_grad():
        for found, expected in zip(ours.encoder(image), network.encoder(image), strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def primus_keys():
    return {"encoder": "eva", "stem": "down_projection"}


@pytest.mark.parametrize(
    ("name", "heads", "arguments"),
    [
        ("PrimusS", 6, None),
        # As nnFoundation's, which says its sizes itself, and whose patch is not that of the plan.
        ("PrimusX", 3, {"encoder_eva_numheads": 3, "decoder_eva_numheads": 2, "input_shape": [16, 24, 16]}),
    ],
)
def test_primus_equals_the_original_forward(name, heads, arguments, tmp_path):
    network = tiny_primus(eva_numheads=heads)
    keys = primus_keys() if arguments is None else {**primus_keys(), "patch_size": [160, 160, 160]}
    checkpoint = read_checkpoint(write(network, tmp_path / "c.pth", name, arguments, **keys))
    assert checkpoint.absent == ("up_projection.", "mask_token")
    ours: Any = checkpoint.build_network()
    ours.up_projection.load_state_dict(network.up_projection.state_dict())
    image = torch.randn(1, 1, 16, 24, 16)
    with torch.no_grad():
        torch.testing.assert_close(ours(image), network(image), rtol=0, atol=1e-4)


def test_embeddings_of_places_follow_the_patch_size(tmp_path):
    network = tiny_primus()
    checkpoint = read_checkpoint(write(network, tmp_path / "c.pth", "PrimusS", **primus_keys()))
    entry = checkpoint.architecture.to_plans()
    arguments = {**entry["arch_kwargs"], "input_shape": [24, 24, 32]}
    from dataclasses import replace

    target: Any = replace(checkpoint.architecture, arguments=arguments).build(1, 3, deep_supervision=False)
    report = transfer_weights(target, checkpoint, target_classes=CLASSES)
    (adapted,) = [entry for entry in report.tensors if entry.outcome == "adapted"]
    assert (adapted.name, adapted.detail) == ("eva.pos_embed", "embeddings of 2 x 3 x 2 places resized to 3 x 3 x 4")
    # Linear interpolation between the middles of the tokens, the outermost ones reaching to the edge.
    source = network.eva.pos_embed.detach().double().numpy()[0].reshape(2, 3, 2, 36)
    axes = [(np.arange(new) + 0.5) * old / new - 0.5 for old, new in zip((2, 3, 2), (3, 3, 4), strict=True)]
    places = np.stack(np.meshgrid(*axes, indexing="ij"))
    expected = np.stack([map_coordinates(source[..., c], places, order=1, mode="nearest") for c in range(36)], -1)
    np.testing.assert_allclose(target.eva.pos_embed.detach().numpy()[0], expected.reshape(-1, 36), atol=1e-6)
    assert torch.equal(target.eva.blocks[1].norm1.weight, network.eva.blocks[1].norm1.weight)


def test_files_of_another_form_end_in_a_sentence(tmp_path):
    path = tmp_path / "c.pth"
    with pytest.raises(UserError, match=r"Expected one of PrimusS, .* but its adaptation plan has 'SwinUNETR'"):
        read_checkpoint(write(resenc(), path, "SwinUNETR"))
    with pytest.raises(UserError, match="Expected encoder_eva_numheads of the PrimusX"):
        read_checkpoint(write(tiny_primus(), path, "PrimusX", **primus_keys()))
    with pytest.raises(UserError, match=r"Expected weights called eva\.\* "):
        read_checkpoint(write(resenc(), path, "PrimusS", **primus_keys()))
    with pytest.raises(UserError, match=r"embeddings of as many places as a patch of .* found 12"):
        read_checkpoint(write(tiny_primus(), path, "PrimusS", patch_size=[16, 16, 16], **primus_keys()))
    with pytest.raises(UserError, match="pretrain_num_input_channels"):
        read_checkpoint(write(resenc(), path, "ResEncL", pretrain_num_input_channels="one"))
    hostile = {"n_blocks_per_stage": [1, 2, 1], **STAGES, "conv_op": "os.system"}
    with pytest.raises(UserError, match=r"os\.system"):
        read_checkpoint(write(resenc(), path, "ResidualEncoderUNet", hostile))
