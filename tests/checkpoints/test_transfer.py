"""transfer_weights: what is loaded, adapted and reinitialised, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from nnunetv2_ext.architectures.architecture import Architecture
from nnunetv2_ext.architectures.stunet import PUBLISHED_STRIDES, STUNET_SIZES, STUNet
from nnunetv2_ext.checkpoints import Checkpoint, transfer_weights
from nnunetv2_ext.checkpoints.formats.base import unet_arguments
from nnunetv2_ext.utilities.errors import UserError

SOURCE_LABELS = {"background": 0, "liver": 1, "spleen": 2, "aorta": 3}
STUNET_PATH = "nnunetv2_ext.architectures.stunet.STUNet"
TINY = {"features_per_stage": [4, 6], "n_blocks_per_stage": [2, 1], "strides": [[1, 1, 1], [1, 2, 2]]}
UNET = {
    "n_stages": 3,
    "features_per_stage": [4, 6, 8],
    "kernel_sizes": [[3, 3, 3]] * 3,
    "strides": [[1, 1, 1], [1, 2, 2], [1, 2, 2]],
    "n_conv_per_stage": [1, 1, 1],
    "n_conv_per_stage_decoder": [1, 1],
}


def stunet(input_channels=1, num_classes=4, seed=0, **arguments):
    torch.manual_seed(seed)
    return STUNet(input_channels, num_classes, deep_supervision=True, **{**TINY, **arguments}).eval()


def checkpoint_of(network, architecture=None, labels=SOURCE_LABELS):
    state = {name: tensor.clone() for name, tensor in network.state_dict().items() if ".all_modules." not in name}
    state = {name: tensor for name, tensor in state.items() if not name.startswith("decoder.encoder.")}
    return Checkpoint(
        path=Path("base_ep4k.model"),
        format="stunet_v1",
        network_state=state,
        architecture=architecture or Architecture(STUNET_PATH, TINY),
        input_channels=1,
        num_classes=network.decoder.seg_layers[0].weight.shape[0],
        labels=labels,
    )


def unet(num_classes, input_channels=1, seed=0):
    torch.manual_seed(seed)
    architecture = unet_arguments(
        3, True, class_path="dynamic_network_architectures.architectures.unet.PlainConvUNet", **UNET
    )
    return architecture.build(input_channels, num_classes, deep_supervision=True).eval(), architecture


def outputs(network, image):
    with torch.no_grad():
        return network(image)


@pytest.mark.parametrize("kind", ["stunet", "unet"])
def test_heads_of_classes_with_the_same_name_compute_what_they_did(kind):
    """Other classes, another order: the logits of shared classes are those of the checkpoint, at every level."""
    if kind == "stunet":
        source, target, architecture = stunet(), stunet(num_classes=3, seed=1), None
    else:
        (source, architecture), (target, _) = unet(4), unet(3, seed=1)
    fresh = target.decoder.seg_layers[0].weight.detach().clone()
    report = transfer_weights(
        target, checkpoint_of(source, architecture), target_classes={"background": 0, "tumour": 2, "spleen": 1}
    )
    image = torch.randn(1, 1, 4, 8, 8)
    for found, expected in zip(outputs(target, image), outputs(source, image), strict=True):
        torch.testing.assert_close(found[:, [0, 1]], expected[:, [0, 2]])
    # A new class begins as the background does.
    background = source.decoder.seg_layers[0].weight[0]
    torch.testing.assert_close(target.decoder.seg_layers[0].weight[2], background + fresh[2] * 0.01)
    assert report.transferred_classes == {"background": "background", "spleen": "spleen"}
    assert report.reinitialised_classes == {"tumour": "not in the checkpoint"}
    assert set(report.names("adapted")) == {
        f"decoder.seg_layers.{level}.{part}"
        for level in range(len(target.decoder.seg_layers))
        for part in ("weight", "bias")
    }


def test_identical_classes_load_the_whole_network():
    source, target = stunet(), stunet(seed=1)
    report = transfer_weights(target, checkpoint_of(source), target_classes=SOURCE_LABELS)
    assert len(report.names("loaded")) == len(target.state_dict())
    for name, tensor in target.state_dict().items():
        assert torch.equal(tensor, source.state_dict()[name])


@pytest.mark.parametrize("kind", ["stunet", "unet"])
def test_one_input_channel_spreads_over_several(kind):
    """A network that sees the same image three times computes what the checkpoint computed on it once."""
    if kind == "stunet":
        source, target, architecture = stunet(), stunet(input_channels=3, seed=1), None
    else:
        (source, architecture), (target, _) = unet(4), unet(4, input_channels=3, seed=1)
    report = transfer_weights(target, checkpoint_of(source, architecture), target_classes=SOURCE_LABELS)
    image = torch.randn(1, 1, 4, 8, 8)
    for found, expected in zip(outputs(target, image.repeat(1, 3, 1, 1, 1)), outputs(source, image), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert len(report.names("adapted")) == (2 if kind == "stunet" else 1)
    assert "input channels 1 -> 3, weights repeated and divided by 3" in str(report)


def test_two_input_channels_become_three():
    source, target = stunet(input_channels=2), stunet(input_channels=3, seed=1)
    report = transfer_weights(target, checkpoint_of(source), target_classes=SOURCE_LABELS)
    image = torch.randn(1, 1, 4, 8, 8)
    found, expected = (
        outputs(network, image.repeat(1, channels, 1, 1, 1))[0] for network, channels in ((target, 3), (source, 2))
    )
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert "input channels 2 -> 3, weights added up, repeated and divided by 3" in str(report)


def test_image_channels_are_known_by_name():
    source, target = stunet(input_channels=2), stunet(input_channels=2, seed=1)
    checkpoint = checkpoint_of(source)
    checkpoint.dataset_json = {"channel_names": {"0": "T1", "1": "T2"}}
    transfer_weights(target, checkpoint, target_classes=SOURCE_LABELS, target_channels=["T2", "T1"])
    image = torch.randn(1, 2, 4, 8, 8)
    torch.testing.assert_close(outputs(target, image.flip(1))[0], outputs(source, image)[0])


def test_classes_are_known_by_the_aliases_of_label_orders():
    source, target = stunet(), stunet(num_classes=3, seed=1)
    labels = {"background": 0, "kidney_left": 1, "kidney_right": 2, "gallbladder": 3}
    report = transfer_weights(
        target, checkpoint_of(source, labels=labels), target_classes={"background": 0, "right kidney": 1, "kidney": 2}
    )
    image = torch.randn(1, 1, 4, 8, 8)
    torch.testing.assert_close(outputs(target, image)[0][:, :2], outputs(source, image)[0][:, [0, 2]])
    assert report.transferred_classes == {"background": "background", "right kidney": "kidney_right"}
    assert report.reinitialised_classes == {"kidney": "not in the checkpoint"}


@pytest.mark.parametrize("part", ["encoder", "backbone"])
@pytest.mark.parametrize("kind", ["stunet", "unet"])
def test_a_part_is_transferred_and_the_rest_stays(kind, part):
    (source, architecture), (target, _) = (
        ((stunet(), None), (stunet(num_classes=3, seed=1), None)) if kind == "stunet" else (unet(4), unet(3, seed=1))
    )
    fresh = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    report = transfer_weights(
        target, checkpoint_of(source, architecture), target_classes={"background": 0, "liver": 1, "x": 2}, part=part
    )
    for name, tensor in target.state_dict().items():
        beginning = ("encoder.", "decoder.encoder.") if part == "encoder" else ("encoder.", "decoder.")
        expected = source if name.startswith(beginning) and "seg_layers" not in name else None
        assert torch.equal(tensor, fresh[name] if expected is None else expected.state_dict()[name]), name
    assert len(report.names("loaded")) + len(report.names("reinitialised")) == len(report.tensors)
    assert f"reinitialised: heads: left out by --transfer {part}" in str(report)
    assert not report.transferred_classes


def test_an_encoder_goes_to_another_decoder():
    source, target = stunet(), stunet(seed=1)
    target.decoder.stages = torch.nn.ModuleList([torch.nn.Conv3d(8, 4, 5)])
    transfer_weights(target, checkpoint_of(source), target_classes=SOURCE_LABELS, part="encoder")
    assert all(
        torch.equal(tensor, source.encoder.state_dict()[name]) for name, tensor in target.encoder.state_dict().items()
    )


def test_regions_have_no_background_channel():
    source, target = stunet(), stunet(num_classes=2, seed=1)
    transfer_weights(target, checkpoint_of(source), target_classes={"background": 0, "aorta": [1, 2], "liver": [2, 2]})
    for ours, theirs in zip(target.decoder.seg_layers, source.decoder.seg_layers, strict=True):
        assert torch.equal(ours.weight, theirs.weight[[3, 1]] - theirs.weight[:1])
        assert torch.equal(ours.bias, theirs.bias[[3, 1]] - theirs.bias[:1])


def test_a_mapping_names_structures_that_are_called_differently():
    source, target = stunet(), stunet(num_classes=2, seed=1)
    report = transfer_weights(
        target,
        checkpoint_of(source, labels=None),
        source_classes=list(SOURCE_LABELS),
        target_classes=["background", "Leber"],
        class_mapping={"Leber": "liver"},
    )
    assert torch.equal(target.decoder.seg_layers[0].weight[1], source.decoder.seg_layers[0].weight[1])
    assert "Leber (from liver)" in str(report)


SIGMOID_LABELS = {"background": 0, "liver": [1, 1], "spleen": [2, 2], "aorta": [3, 3]}


@pytest.mark.parametrize("kind", ["stunet", "unet"])
@pytest.mark.parametrize(
    ("before", "after"), [(SOURCE_LABELS, SIGMOID_LABELS), (SIGMOID_LABELS, SOURCE_LABELS)], ids=["sigmoid", "softmax"]
)
def test_other_outputs_predict_the_same_classes_before_any_training(kind, before, after):
    """Voxels where at most one class is there: the class above the background's logit, or above 0."""
    classes = [4 if labels is SOURCE_LABELS else 3 for labels in (before, after)]
    if kind == "stunet":
        source, target, architecture = stunet(num_classes=classes[0]), stunet(num_classes=classes[1], seed=1), None
    else:
        (source, architecture), (target, _) = unet(classes[0]), unet(classes[1], seed=1)
    checkpoint = checkpoint_of(source, architecture, labels=before)
    report = transfer_weights(target, checkpoint, target_classes=after)
    image = torch.randn(1, 1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    for logits, reference in zip(outputs(target, image), outputs(source, image), strict=True):
        if before is SOURCE_LABELS:
            assert torch.equal(logits > 0, reference[:, 1:] > reference[:, :1])
        else:
            first = torch.cat((torch.zeros_like(reference[:, :1]), reference), 1).argmax(1)
            assert torch.equal(logits.argmax(1), first)
            assert len(first.unique()) > 1
    assert "to s" in str(report)


@pytest.mark.parametrize(
    ("mapping", "labels", "message"),
    [
        ({"Milz": "spleen"}, SOURCE_LABELS, r"Milz \(no class of the dataset\); .* dataset's background, x .*spleen"),
        ({"x": "lien"}, SOURCE_LABELS, r"lien \(no class of base_ep4k.model\); choose .* background, liver"),
        ({"x": "liver"}, None, "names of all classes .* base_ep4k.model are not known"),
    ],
    ids=["target", "source", "nameless checkpoint"],
)
def test_a_mapping_that_cannot_be_followed_is_refused_and_changes_nothing(mapping, labels, message):
    source, target = stunet(), stunet(num_classes=2, seed=1)
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    with pytest.raises(UserError, match=message):
        transfer_weights(
            target, checkpoint_of(source, labels=labels), target_classes=["background", "x"], class_mapping=mapping
        )
    assert all(torch.equal(tensor, before[name]) for name, tensor in target.state_dict().items())


def test_classes_of_collections_are_pointed_out_and_not_transferred():
    """``liver`` is not ``A/liver``, whose source may draw it in another way: the user decides."""
    source, target = stunet(), stunet(num_classes=4, seed=1)
    fresh = target.decoder.seg_layers[0].weight.detach().clone()
    checkpoint = checkpoint_of(source, labels=["A/liver", "A/left kidney", "A/aorta", "B/aorta"])
    checkpoint.labels = {name: [value, value] for value, name in enumerate(checkpoint.labels, 1)}
    report = transfer_weights(target, checkpoint, target_classes=["liver", "left kidney", "aorta", "iver"])
    assert torch.equal(target.decoder.seg_layers[0].weight, fresh)
    assert report.transferred_classes == {}
    assert report.notes == [
        "to start from classes of similar name, add --class_mapping liver=A/liver 'left kidney=A/left kidney'",
        "the checkpoint has 2 classes called aorta (A/aorta, B/aorta); to start from one of them, choose it with "
        "--class_mapping aorta=A/aorta",
    ]
    mapping = {"liver": "A/liver", "aorta": "B/aorta", "iver": "A/liver"}
    report = transfer_weights(
        target, checkpoint, target_classes=["liver", "left kidney", "aorta", "iver"], class_mapping=mapping
    )
    assert torch.equal(target.decoder.seg_layers[0].weight[[0, 2, 3]], source.decoder.seg_layers[0].weight[[0, 3, 0]])
    torch.testing.assert_close(target.decoder.seg_layers[0].weight[1], fresh[1] * 0.01)
    assert report.notes == [
        "to start from classes of similar name, add --class_mapping 'left kidney=A/left kidney'",
    ]


@pytest.mark.parametrize(
    ("labels", "target_classes", "reason"),
    [
        (None, SOURCE_LABELS, "checkpoint's class names are not known"),
        (SOURCE_LABELS, None, "network's class names are not known"),
        (SOURCE_LABELS, ["a", "b", "c", "d"], "no class is in the checkpoint"),
    ],
)
def test_heads_without_known_classes_are_reinitialised_and_the_report_says_why(labels, target_classes, reason):
    source, target = stunet(), stunet(seed=1)
    fresh = [head.weight.detach().clone() for head in target.decoder.seg_layers]
    report = transfer_weights(target, checkpoint_of(source, labels=labels), target_classes=target_classes)
    assert all(torch.equal(a, b.weight) for a, b in zip(fresh, target.decoder.seg_layers, strict=True))
    assert len(report.names("reinitialised")) == 2
    assert len(report.tensors) == len(target.state_dict())
    assert reason in str(report)
    features = target.forward_features(torch.ones(1, 1, 2, 4, 4))
    for found, expected in zip(features, source.forward_features(torch.ones(1, 1, 2, 4, 4)), strict=True):
        torch.testing.assert_close(found, expected)


def test_wrappers_are_seen_through():
    source, target = stunet(), stunet(seed=1)
    compiled: Any = torch.compile(target, backend="eager")
    transfer_weights(compiled, checkpoint_of(source), target_classes=SOURCE_LABELS)
    assert torch.equal(target.encoder.stages[0][0].conv1.weight, source.encoder.stages[0][0].conv1.weight)


def published(size, dimensions=3):
    strides = [list(stride)[3 - dimensions :] for stride in PUBLISHED_STRIDES]
    return {**STUNET_SIZES[size].arguments, "strides": strides}


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (("S", 3), ["3D STU-Net B (features 32..512)", "3D STU-Net S (features 16..256)", "STUNetTrainer_base_ft"]),
        (("B", 2), ["3D STU-Net B", "2D STU-Net B", "3D configuration"]),
        ("unet", ["3D STU-Net B", "3D PlainConvUNet (features 4..8)", "STUNetTrainer_base_ft"]),
    ],
)
def test_a_wrong_network_is_an_error_that_names_both_sides_and_changes_nothing(network, words):
    with torch.device("meta"):
        source = STUNet(1, 4, **published("B"))
    checkpoint = checkpoint_of(source, Architecture(STUNET_PATH, published("B")))
    target = unet(4)[0] if network == "unet" else STUNet(1, 4, **published(*network))
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    with pytest.raises(UserError) as error:
        transfer_weights(target, checkpoint, target_classes=SOURCE_LABELS)
    for word in words:
        assert word in str(error.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in target.state_dict().items())


def test_networks_with_the_same_description_name_the_first_difference():
    (source, architecture), target = unet(4), None
    entry = {**architecture.arguments, "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]]}
    target = Architecture(architecture.class_path, entry, architecture.import_arguments).build(1, 4, True)
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    with pytest.raises(UserError, match=r"\(4, 1, 3, 3, 3\) in the checkpoint, \(4, 1, 1, 3, 3\) in the network"):
        transfer_weights(target, checkpoint_of(source, architecture))
    assert all(torch.equal(tensor, before[name]) for name, tensor in target.state_dict().items())


def test_wrong_numbers_of_names_are_refused_before_anything_is_written():
    source, target = stunet(), stunet(seed=1)
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    with pytest.raises(UserError, match="Expected 4 class names"):
        transfer_weights(target, checkpoint_of(source), target_classes=["background", "liver"])
    with pytest.raises(UserError, match="Expected 4 names"):
        transfer_weights(target, checkpoint_of(source), target_classes=SOURCE_LABELS, source_classes=["liver"])
    assert all(torch.equal(tensor, before[name]) for name, tensor in target.state_dict().items())


def test_other_strides_are_noted():
    source, target = stunet(), stunet(seed=1, strides=[[1, 1, 1], [2, 2, 2]])
    report = transfer_weights(target, checkpoint_of(source), target_classes=SOURCE_LABELS)
    assert "strides [[1, 1, 1], [1, 2, 2]], this network has [[1, 1, 1], [2, 2, 2]]" in str(report)


def test_networks_without_heads_are_refused():
    with pytest.raises(UserError, match=r"segmentation heads at decoder\.seg_layers, but Conv3d has none"):
        transfer_weights(torch.nn.Conv3d(1, 2, 3), checkpoint_of(stunet()), target_classes=SOURCE_LABELS)
