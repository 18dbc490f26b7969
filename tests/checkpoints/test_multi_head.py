"""MultiTalent's weights for nnU-Net v2 as what a training starts from, and trainings with heads from other weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from nnunetv2_ext.checkpoints import read_checkpoint, transfer_weights
from nnunetv2_ext.checkpoints.multi_head import as_one_network, transfer_to_heads
from nnunetv2_ext.labels.partial_labels import PartialLabels
from nnunetv2_ext.labels.source_heads import source_heads
from nnunetv2_ext.utilities.errors import UserError


def _fresh(checkpoint, channels, outputs):
    torch.manual_seed(1)
    return checkpoint.architecture.build(channels, outputs, deep_supervision=True)


def _with_stems(checkpoint, stems):
    arguments = {**checkpoint.architecture.arguments, "stems": stems}
    return replace(checkpoint, architecture=replace(checkpoint.architecture, arguments=arguments))


def test_classes_of_one_name_start_from_their_head(published_multitalent, tmp_path):
    """Before any training the network tells the classes of a head from the background as that head does."""
    model = published_multitalent("shared stem")
    checkpoint = read_checkpoint(model.write(tmp_path / "model"))
    labels = {"background": 0, "colon": 1, "vessel": 2, "heart": 3}
    one = as_one_network(checkpoint, channels=1, stem="10")
    assert one.class_names == ("003/liver", "003/tumour", "colon", "liver", "vessel")
    network = _fresh(one, 1, 4).eval()
    report = transfer_weights(network, one, target_classes=labels)
    assert set(report.transferred_classes) == {"colon", "vessel"}
    image = model.image("010")
    with torch.no_grad():
        found, stock = network(image)[0], model.stock("010")(image)[0]
    torch.testing.assert_close(found[:, [1, 2]] - found[:, :1], stock[:, [1, 3]] - stock[:, :1], rtol=1e-4, atol=1e-4)


def test_classes_carry_the_name_of_their_head_unless_it_is_asked_for(published_multitalent, tmp_path):
    checkpoint = read_checkpoint(published_multitalent("shared stem").write(tmp_path / "model"))
    names = ("003/liver", "003/tumour", "010/colon", "010/liver", "010/vessel")
    one = as_one_network(checkpoint, channels=1)
    assert one.class_names == names
    names_of_one = as_one_network(checkpoint, channels=1, stem="003", full=["003/liver"]).class_names
    assert names_of_one is not None
    assert names_of_one[:2] == ("003/liver", "tumour")
    mapping = {"liver": "010/liver"}
    report = transfer_weights(
        _fresh(one, 1, 2), one, target_classes={"background": 0, "liver": 1}, class_mapping=mapping
    )
    assert report.transferred_classes == mapping


def test_the_stem_is_chosen_by_channels_or_by_name(published_multitalent, tmp_path):
    model = published_multitalent("stem per dataset")
    plans = {head: model.head_plans(head, mean=mean) for head, mean in (("003", 3.0), ("221", 221.0))}
    checkpoint = read_checkpoint(model.write(tmp_path / "model", plans=plans))
    for channels, stem, head in ((1, None, "003"), (2, None, "221"), (2, "003", "003"), (3, None, "003")):
        one = as_one_network(checkpoint, channels=channels, stem=stem)
        state, expected = one.network_state, model.state[f"encoder.stem.{head}.convs.0.conv.weight"]
        assert torch.equal(state["encoder.stem.convs.0.conv.weight"], expected)
        assert one.plans is not None
        means = one.plans["foreground_intensity_properties_per_channel"]["0"]["mean"]
        assert means == float(int(head)), "the plans are those of the head whose stem is taken"
        network = _fresh(one, channels, 2)
        transfer_weights(network, one, target_classes={"background": 0, "bone": 1})
    with pytest.raises(UserError, match=r"one of 003, 221 for --stem, but got '22'"):
        as_one_network(checkpoint, channels=1, stem="22")
    wide = _with_stems(checkpoint, {"003": 2, "221": 2})
    with pytest.raises(UserError, match=r"Expected a stem for 4 image channel\(s\)"):
        as_one_network(wide, channels=4)


def test_a_stem_of_a_network_with_one_is_refused(published_multitalent, tmp_path):
    model = published_multitalent("shared stem")
    torch.save(model.stock("003").state_dict(), tmp_path / "stock.pth")
    checkpoint = read_checkpoint(tmp_path / "stock.pth", plans=model.plans())
    assert as_one_network(checkpoint, channels=1) is checkpoint
    with pytest.raises(UserError, match="leave --stem out"):
        as_one_network(checkpoint, channels=1, stem="003")


@pytest.mark.parametrize("stems", [False, True])
def test_heads_of_a_training_start_from_heads_of_the_same_name(published_model, tmp_path, stems):
    checkpoint = read_checkpoint(published_model.write(tmp_path / "model"))
    assert checkpoint.dataset_json is not None
    heads = source_heads(PartialLabels.from_dataset_json(checkpoint.dataset_json))
    torch.manual_seed(1)
    own = _with_stems(checkpoint, dict.fromkeys(published_model.heads, 1) if stems else None)
    network = own.architecture.build(1, 0, deep_supervision=False)
    reports = transfer_to_heads(network, checkpoint, heads)
    for report, of_head in zip(reports, heads.values(), strict=True):
        assert set(report.transferred_classes) == set(of_head.labels) - {"background"}
    head, image = "003", published_model.image("003")
    with torch.no_grad():
        found = network.eval()(image, torch.tensor([0])).softmax(1)
        expected = published_model.stock(head)(image)[0].softmax(1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match="Expected classes of the dataset in the class mapping, but got nothing"):
        transfer_to_heads(network, checkpoint, heads, class_mapping={"nothing": "003/liver"})
