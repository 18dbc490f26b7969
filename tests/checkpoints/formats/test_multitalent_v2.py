"""MultiTalent's checkpoints for nnU-Net v2, against the outputs of the published class and nnU-Net's own."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from nnunetv2_ext.checkpoints import read_checkpoint
from nnunetv2_ext.checkpoints.model_folder import write_model_folder
from nnunetv2_ext.utilities.errors import UserError


def _assert_outputs(outputs, expected):
    for output, given in zip(outputs, expected, strict=True):
        step_z, step_y, step_x = given["stride"]
        assert list(output.shape) == given["shape"]
        values = output[:, :, ::step_z, ::step_y, ::step_x].flatten().numpy()
        np.testing.assert_allclose(values, given["values"], atol=1e-4)


def test_every_head_is_the_published_one_and_bit_equal_to_nnunets_own_class(published_model, tmp_path):
    folder = published_model.write(tmp_path / "model")
    for head, content in published_model.heads.items():
        checkpoint = read_checkpoint(folder, dataset=head)
        network, image = checkpoint.build_network(deep_supervision=True), published_model.image(head)
        with torch.no_grad():
            outputs = network(image)
            _assert_outputs(outputs, content["outputs_high_to_low_resolution"])
            expected = published_model.stock(head)(image)
        assert all(torch.equal(ours, stock) for ours, stock in zip(outputs, expected, strict=True))
        assert type(network).__name__ == "ResidualEncoderUNet"
        assert checkpoint.class_names is not None
        assert checkpoint.class_names[0] == "background"
        assert len(checkpoint.class_names) == checkpoint.num_classes


def test_all_heads_are_one_network(published_model, tmp_path):
    checkpoint = read_checkpoint(published_model.write(tmp_path / "model"))
    network: Any = checkpoint.build_network(deep_supervision=True)
    assert list(network.heads) == list(published_model.heads)
    names = {"003/liver", "003/tumour"}
    assert checkpoint.class_names is not None
    assert names <= set(checkpoint.class_names)
    assert checkpoint.dataset_json is not None
    assert list(checkpoint.dataset_json["partial_labels"]) == list(published_model.heads)
    for place, (head, content) in enumerate(published_model.heads.items()):
        with torch.no_grad():
            outputs = network(published_model.image(head), torch.tensor([place]))
        _assert_outputs(outputs, content["outputs_high_to_low_resolution"])


def test_sizes_follow_from_the_weights_where_there_are_no_plans(published_model, tmp_path):
    file = tmp_path / "weights.pth"
    torch.save({"network_weights": published_model.state}, file)
    head = "003"
    network = read_checkpoint(file, dataset=3).build_network()
    image = published_model.image(head)
    with torch.no_grad():
        assert torch.equal(network(image), published_model.stock(head)(image)[0])


def test_plain_unets_with_a_stem_keep_their_first_convolution_there(published_multitalent, tmp_path):
    from nnunetv2_ext.architectures.unet import PlainConvUNet

    arguments = published_multitalent("shared stem").architecture()["arch_kwargs"]
    operations = {"conv_op": torch.nn.Conv3d, "norm_op": torch.nn.InstanceNorm3d, "nonlin": torch.nn.LeakyReLU}
    arguments = {**arguments, "n_conv_per_stage": [2, 1, 1], **operations}
    del arguments["n_blocks_per_stage"]
    torch.manual_seed(0)
    plain = PlainConvUNet(1, num_classes=3, **arguments).eval()
    first = "encoder.stages.0.0.convs."
    published = {}
    for name, tensor in plain.state_dict().items():
        name = name.replace("seg_layers.", "seg_layers.1001.").replace("decoder.encoder.", "encoder.")
        name = name.replace(f"{first}0.", "encoder.stem.convs.0.").replace(f"{first}1.", f"{first}0.")
        published[name] = tensor
    image = torch.randn(1, 1, 16, 16, 16)
    for stem in ("stem.", "stem.1001."):
        file = tmp_path / f"{stem}pth"
        renamed = {name.replace("encoder.stem.", f"encoder.{stem}"): value for name, value in published.items()}
        torch.save({"network_weights": renamed}, file)
        for dataset in ("1001", None):
            checkpoint = read_checkpoint(file, dataset=dataset)
            network = checkpoint.build_network()
            assert type(network).__name__ == ("PlainConvUNet" if dataset else "MultiHeadPlainConvUNet")
            with torch.no_grad():
                place = () if dataset else (torch.tensor([0]),)
                assert torch.equal(network(image, *place), plain(image))


@pytest.mark.parametrize("wanted", ["3", 3, "003"])
def test_ids_are_whole_numbers_and_no_beginnings(published_multitalent, tmp_path, wanted):
    model = published_multitalent("shared stem")
    rename = {"003": "003", "010": "3003"}
    state = {}
    for name, tensor in model.state.items():
        for old, new in rename.items():
            name = name.replace(f"seg_layers.{old}.", f"seg_layers.{new}.")
        state[name] = tensor
    folder = model.write(tmp_path / "model", state=state, plans={}, labels={})
    assert read_checkpoint(folder, dataset=wanted).num_classes == 3
    assert read_checkpoint(folder, dataset=3003).num_classes == 4
    with pytest.raises(UserError, match=r"one head .* for '300', but the heads are 003, 3003"):
        read_checkpoint(folder, dataset="300")


def test_parts_of_a_dataset_are_heads_of_their_own(published_multitalent, tmp_path):
    model = published_multitalent("shared stem")
    rename = {"003": "351_0", "010": "351_1"}
    state = {
        name.replace("seg_layers.003", "seg_layers.351_0").replace("seg_layers.010", "seg_layers.351_1"): tensor
        for name, tensor in model.state.items()
    }
    # A part keeps the label values that it had in its dataset, or none of its names fit.
    labels = {"351_0": {"liver": 41, "spleen": 40}, "351_1": {"too": 1, "few": 2}}
    folder = model.write(tmp_path / "model", state=state, plans={}, labels=labels)
    checkpoint = read_checkpoint(folder)
    assert checkpoint.class_names == ("351_0/spleen", "351_0/liver", "351_1/1", "351_1/2", "351_1/3")
    assert any("classes of 351_1 are numbered" in note for note in checkpoint.notes)
    for part, head in rename.items():
        network = read_checkpoint(folder, dataset=head).build_network()
        image = model.image(part)
        with torch.no_grad():
            assert torch.equal(network(image), model.stock(part)(image)[0])
    with pytest.raises(UserError, match=r"its parts are 351_0, 351_1; choose one"):
        read_checkpoint(folder, dataset="351")


def test_an_ignore_label_that_became_a_class_is_one(published_multitalent, tmp_path):
    model = published_multitalent("shared stem")
    labels = {"003": {"liver": 1, "ignore": 2}, "010": {"a": 1, "b": 2, "c": 3, "ignore": 4}}
    checkpoint = read_checkpoint(model.write(tmp_path / "model", labels=labels))
    assert checkpoint.class_names == ("003/liver", "003/ignore", "010/a", "010/b", "010/c")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda s: s.pop("decoder.seg_layers.010.0.bias"), "Expected weight and bias of 2 levels"),
        (lambda s: s.update({"decoder.seg_layers.010.1.weight": torch.zeros(9, 4, 1, 1, 1)}), r"with \[4, 9\]"),
        (lambda s: s.update({"decoder.seg_layers.../../etc.0.weight": torch.zeros(2, 4, 1, 1, 1)}), "IDs of at least"),
        (lambda s: s.update({"decoder.seg_layers.12.0.weight": torch.zeros(2, 4, 1, 1, 1)}), "IDs of at least three"),
    ],
)
def test_heads_that_are_none_end_in_a_sentence(published_multitalent, tmp_path, change, sentence):
    model = published_multitalent("shared stem")
    state = dict(model.state)
    change(state)
    folder = model.write(tmp_path / "model", state=state, aliases=False)
    with pytest.raises(UserError, match=sentence):
        read_checkpoint(folder)


def test_a_stem_that_is_missing_or_no_dataset_ends_in_a_sentence(published_multitalent, tmp_path):
    model = published_multitalent("stem per dataset")
    state = {name: value for name, value in model.state.items() if not name.startswith("encoder.stem.221")}
    folder = model.write(tmp_path / "model", state=state, aliases=False)
    with pytest.raises(UserError, match=r"but 221 has only one of them"):
        read_checkpoint(folder)
    state = {**model.state, "encoder.stem.../x.convs.0.conv.weight": torch.zeros(4, 1, 3, 3, 3)}
    folder = model.write(tmp_path / "hostile", state=state, aliases=False)
    with pytest.raises(UserError, match=r"Expected stems of datasets"):
        read_checkpoint(folder)


def test_heads_of_other_networks_cannot_be_chosen_nor_labels_of_all_heads_given(published_multitalent, tmp_path):
    model = published_multitalent("shared stem")
    folder = model.write(tmp_path / "model")
    with pytest.raises(UserError, match="Expected no labels"):
        read_checkpoint(folder, labels={"background": 0, "a": 1})
    torch.save(model.stock("003").state_dict(), tmp_path / "stock.pth")
    with pytest.raises(UserError, match="leave the dataset out"):
        read_checkpoint(tmp_path / "stock.pth", plans=model.plans(), dataset="003")


def test_a_model_folder_keeps_all_heads_and_their_preprocessing(published_model, tmp_path):
    head = list(published_model.heads)[1]
    plans = {head: published_model.head_plans(head, "CTNormalization", mean=123.0)}
    checkpoint = read_checkpoint(published_model.write(tmp_path / "model", plans=plans))
    folder = write_model_folder(checkpoint, tmp_path / "results", "Dataset901_MultiTalent")
    assert folder.name == "MultiTalentV2Trainer__MultiTalentPlans__3d_fullres"
    assert sorted(file.name for file in folder.glob("*_plans.json")) == [f"{head}_plans.json"]
    written = json.loads((folder / f"{head}_plans.json").read_text())
    assert written["foreground_intensity_properties_per_channel"]["0"]["mean"] == 123.0
    again = read_checkpoint(folder)
    assert again.class_names == checkpoint.class_names
    assert again.head_plans.keys() == {head}
    before, after = (each.build_network().state_dict() for each in (checkpoint, again))
    assert all(torch.equal(before[name], after[name]) for name in before)
