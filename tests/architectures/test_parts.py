from __future__ import annotations

import pytest
from torch import nn

from nnunetv2_ext.architectures.label_tree_network import give_label_tree
from nnunetv2_ext.architectures.parts import belongs_to, check_part, family_of_network, stage_depths
from nnunetv2_ext.architectures.resenc import StridedSkipResidualEncoderUNet
from nnunetv2_ext.architectures.stunet import STUNet
from nnunetv2_ext.architectures.unet import PlainConvUNet
from nnunetv2_ext.utilities.errors import UserError

STRIDES = [[1, 1, 1], [2, 2, 2], [2, 2, 2]]


def stunet():
    return STUNet(1, 3, features_per_stage=[4, 6, 8], n_blocks_per_stage=1, strides=STRIDES)


def unet(network, **arguments):
    return network(1, 3, [4, 6, 8], nn.Conv3d, 3, STRIDES, num_classes=3, n_conv_per_stage_decoder=1,
                   norm_op=nn.InstanceNorm3d, **arguments)  # fmt: skip


def monai(name, **arguments):
    pytest.importorskip("monai", reason="the extra 'monai' is not installed")
    from nnunetv2_ext.architectures import mednext, monai_networks, segresnet_ds, swinunetr

    rooms = {"SwinUNETR": swinunetr, "MedNeXt": mednext, "SegResNetDS": segresnet_ds, "VISTA3D": segresnet_ds}
    return getattr(rooms.get(name, monai_networks), name)(1, 3, **arguments)


#: Network -> family, and depths of some weights, listed by hand.
NETWORKS = {
    "STUNet": (
        stunet,
        "stunet_small",
        {"decoder.seg_layers.1": 0, "decoder.stages.1": 1, "decoder.upsample_layers.1": 1, "decoder.stages.0": 2,
         "encoder.stages.2": 3, "encoder.stages.1": 4, "encoder.stages.0": 5},
    ),
    "with a label tree": (
        lambda: give_label_tree(stunet(), [-1] * 3),
        "stunet_small",
        {"decoder.seg_layers.0": 0, "decoder.stages.1": 1, "encoder.stages.0": 5},
    ),
    "PlainConvUNet": (
        lambda: unet(PlainConvUNet, n_conv_per_stage=1),
        "unet",
        {"decoder.seg_layers.0": 0, "decoder.transpconvs.1": 1, "decoder.stages.0": 2, "encoder.stages.2": 3,
         "encoder.stages.0": 5},
    ),
    "residual encoder": (
        lambda: unet(StridedSkipResidualEncoderUNet, n_blocks_per_stage=1),
        "resenc",
        {"decoder.seg_layers.0": 0, "decoder.stages.1": 1, "encoder.stages.2": 3, "encoder.stages.0": 5,
         "encoder.stem": 6},
    ),
    "SegResNet": (
        lambda: monai("SegResNet", init_filters=8, blocks_down=(1, 1, 1), blocks_up=(1, 1)),
        "segresnet",
        {"decoder.seg_layers.0": 0, "conv_final": 1, "up_layers.1": 2, "up_samples.1": 2, "up_layers.0": 3,
         "down_layers.2": 4, "down_layers.0": 6, "convInit": 7},
    ),
    "MedNeXt": (
        lambda: monai("MedNeXt", init_filters=4, blocks_down=(1, 1), blocks_bottleneck=1, blocks_up=(1, 1)),
        "mednext",
        {"decoder.seg_layers.2": 0, "dec_stages.1": 1, "up_blocks.1": 1, "dec_stages.0": 2, "bottleneck": 3,
         "down_blocks.1": 4, "enc_stages.0": 5, "stem": 6},
    ),
    "SegResNetDS": (
        lambda: monai("SegResNetDS", init_filters=8, blocks_down=(1, 1, 1), levels=2),
        "segresnet_ds",
        {"decoder.seg_layers.0": 0, "up_layers.1": 1, "up_layers.0": 2, "encoder.layers.2": 3, "encoder.layers.0": 5,
         "encoder.conv_init": 6},
    ),
    "VISTA3D": (
        lambda: monai("VISTA3D", init_filters=8, blocks_down=(1, 1)),
        "vista3d",
        {"decoder.seg_layers.0": 0, "image_post_mapping.1": 1, "embedding": 1, "up_layers.0": 2, "encoder.layers.1": 3,
         "encoder.conv_init": 5},
    ),
    "UNet": (
        lambda: monai("UNet", channels=(4, 8, 8), strides=(2, 2)),
        "monai_unet",
        {"model.2": 0, "model.1.submodule.2": 1, "model.1.submodule.1.submodule.conv": 2, "model.1.submodule.0": 3,
         "model.0": 4},
    ),
    "SwinUNETR": (
        lambda: monai("SwinUNETR", feature_size=12),
        "swinunetr",
        {"decoder.seg_layers.0": 0, "decoder1": 1, "decoder5": 5, "swinViT.layers4": 6, "encoder10": 6, "encoder4": 7,
         "swinViT.layers3": 7, "encoder2": 9, "swinViT.layers1": 9, "encoder1": 10, "swinViT.patch_embed": 10},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_depths_of_stages(name):
    build, key, expected = NETWORKS[name]
    network = build()
    assert family_of_network(network).key == key
    depths = stage_depths(network)
    assert depths.keys() == {name for name, _ in network.named_parameters()}
    for beginning, depth in expected.items():
        assert {found for name, found in depths.items() if name.startswith(f"{beginning}.")} == {depth}, beginning


@pytest.mark.parametrize("name", NETWORKS)
def test_the_encoder_is_what_the_image_reaches_first(name):
    network = NETWORKS[name][0]()
    family, depths = family_of_network(network), stage_depths(network)
    encoder = {name for name in depths if belongs_to(name, "encoder", family)}
    backbone = {name for name in depths if belongs_to(name, "backbone", family)}
    assert encoder < backbone
    assert {name for name, depth in depths.items() if depth == 0} == depths.keys() - backbone
    assert max(depths[name] for name in backbone - encoder) < min(depths[name] for name in encoder)


def test_networks_without_such_a_part_are_refused():
    network = nn.Module()
    network.body = nn.Conv3d(1, 2, 1)
    network.decoder = nn.Module()
    network.decoder.seg_layers = nn.ModuleList([nn.Conv3d(2, 2, 1)])
    check_part(network, "none")
    check_part(network, "backbone")
    with pytest.raises(UserError, match="Expected a network whose encoder is known apart from the rest"):
        check_part(network, "encoder")
    assert stage_depths(network)["body.weight"] == 1
    del network.decoder
    with pytest.raises(UserError, match="all its weights there"):
        check_part(network, "backbone")
