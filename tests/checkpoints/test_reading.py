"""read_checkpoint on every format, against the outputs of the published networks."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from nnunetv2_ext.architectures.architecture import Architecture
from nnunetv2_ext.architectures.stunet import STUNET_SIZES, STUNet
from nnunetv2_ext.checkpoints import read_checkpoint, write_safetensors
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.files import write_json


def plans_v2(architecture, **configuration):
    entry = {"patch_size": [8, 16, 16], "spacing": [3.0, 1.0, 1.0], "normalization_schemes": ["CTNormalization"]}
    return {
        "plans_name": "nnUNetPlans",
        "configurations": {"3d_fullres": {**entry, "architecture": architecture, **configuration}},
        "foreground_intensity_properties_per_channel": {"0": {"mean": 1.0, "std": 2.0}},
    }


STUNET_ENTRY: dict[str, Any] = {
    "network_class_name": "nnunetv2_ext.architectures.stunet.STUNet",
    "arch_kwargs": {
        "features_per_stage": [4, 6, 8],
        "n_blocks_per_stage": [1, 2, 1],
        "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
    },
    "_kw_requires_import": [],
}
UNET_ENTRY: dict[str, Any] = {
    "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
    "arch_kwargs": {
        "n_stages": 3,
        "features_per_stage": [4, 6, 8],
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
        "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
        "n_conv_per_stage": [1, 2, 1],
        "n_conv_per_stage_decoder": [1, 2],
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    },
    "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
}
LABELS = {"background": 0, "liver": 1, "spleen": 2}


def stock_unet(num_classes=3):
    """A network of nnU-Net's own class, built as nnU-Net builds it."""
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    torch.manual_seed(1)
    entry = UNET_ENTRY
    return get_network_from_plans(
        entry["network_class_name"], entry["arch_kwargs"], entry["_kw_requires_import"], 1, num_classes, True, False
    ).eval()


def write_v2(path, network, plans, trainer="nnUNetTrainer", labels=LABELS, prefix=""):
    """A checkpoint as nnU-Net 2.8.1 writes it, numpy scalars in the log included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset_json = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": 3, "file_ending": ".nii.gz"}
    init_args = {"configuration": "3d_fullres", "fold": 0, "device": torch.device("cpu")}
    content = {
        "network_weights": {prefix + name: tensor for name, tensor in network.state_dict().items()},
        "optimizer_state": {"state": {}, "param_groups": []},
        "grad_scaler_state": None,
        "logging": {"mean_fg_dice": [np.float64(0.5)], "train_losses": [np.float32(1.5)]},
        "_best_ema": np.float64(0.5),
        "current_epoch": 5,
        "init_args": {**init_args, "plans": plans, "dataset_json": dataset_json} if plans else init_args,
        "trainer_name": trainer,
        "inference_allowed_mirroring_axes": (0, 1),
    }
    torch.save(content, path)
    return path


@pytest.mark.parametrize("name", ["stunet_v1", "multitalent_unet_v1", "multitalent_resenc_v1"])
@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("zip_format", [True, False])
def test_published_networks_give_their_outputs_at_every_level(reference_network, write_v1, name, prefix, zip_format):
    reference = reference_network(name)
    checkpoint = read_checkpoint(write_v1(reference.state, prefix=prefix, zip_format=zip_format))
    assert checkpoint.num_classes == reference.config["num_classes"]
    assert checkpoint.input_channels == 1
    with torch.no_grad():
        reference.assert_outputs(checkpoint.build_network(deep_supervision=True)(reference.image))


def test_old_resenc_files_name_the_last_head_differently(reference_network, write_v1):
    reference = reference_network("multitalent_resenc_v1")
    state = {
        name.replace("deep_supervision_outputs.2", "segmentation_output"): tensor
        for name, tensor in reference.state.items()
    }
    state["decoder.stages.0.convs.0.all.0.weight"] = state["decoder.stages.0.convs.0.conv.weight"]
    checkpoint = read_checkpoint(write_v1(state))
    with torch.no_grad():
        reference.assert_outputs(checkpoint.build_network(deep_supervision=True)(reference.image))


def test_the_pickle_beside_the_file_gives_strides_and_plans(write_v1, plans_v1, published_names, tiny_stunet):
    pool = [[1, 2, 2], [2, 2, 2]]
    network = tiny_stunet()
    path = write_v1(published_names(network), plans=plans_v1(pool, [8, 16, 16], [1.5, 1.5, 1.5]))
    checkpoint = read_checkpoint(path)
    assert checkpoint.architecture.arguments["strides"] == [[1, 1, 1], *pool]
    image = torch.randn(1, 1, 4, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(checkpoint.build_network()(image), network(image))
    assert checkpoint.plans is not None
    configuration = checkpoint.plans["configurations"]["3d_fullres"]
    assert configuration["patch_size"] == [8, 16, 16]
    assert configuration["spacing"] == [1.5, 1.5, 1.5]
    assert configuration["normalization_schemes"] == ["ZScoreNormalization"]
    assert configuration["architecture"] == checkpoint.architecture.to_plans()
    assert checkpoint.plans["original_median_shape_after_transp"] == [114, 228, 240]
    assert checkpoint.normalization is not None
    assert checkpoint.normalization["use_mask_for_norm"] == [False]
    statistics = checkpoint.normalization["foreground_intensity_properties_per_channel"]["0"]
    assert statistics["std"] == pytest.approx(175.48094)
    assert statistics["percentile_00_5"] == -927.0
    assert checkpoint.trainer_name == "TrainerV1"
    assert checkpoint.inference_allowed_mirroring_axes == (0, 1, 2)


def test_the_stage_of_a_cascade_comes_from_the_trainers_arguments(write_v1, plans_v1, published_names, tiny_stunet):
    plans = plans_v1([[1, 2, 2], [2, 2, 2]], [8, 16, 16], [1.5, 1.5, 1.5], stages=2)
    plans["plans_per_stage"][0]["current_spacing"] = np.array([4.0, 4.0, 4.0])
    state = published_names(tiny_stunet())
    lowres = read_checkpoint(write_v1(state, name="a/x.model", plans=plans, stage=0))
    assert lowres.plans is not None
    assert lowres.plans["configurations"]["3d_lowres"]["spacing"] == [4.0, 4.0, 4.0]
    fullres = read_checkpoint(write_v1(state, name="b/x.model", plans=plans))
    assert fullres.plans is not None
    assert fullres.plans["configurations"]["3d_fullres"]["spacing"] == [1.5, 1.5, 1.5]


def test_a_model_folder_of_nnunet_v1_has_its_plans_above_the_fold(
    write_v1, plans_v1, tmp_path, published_names, tiny_stunet
):
    write_v1(published_names(tiny_stunet()), name="model/fold_1/model_final_checkpoint.model")
    plans = plans_v1([[1, 2, 2], [2, 2, 2]], [8, 16, 16], [1.5, 1.5, 1.5])
    (tmp_path / "model" / "plans.pkl").write_bytes(pickle.dumps(plans))
    for path, fold in ((tmp_path / "model", None), (tmp_path / "model", 1), (tmp_path / "model" / "fold_1", None)):
        checkpoint = read_checkpoint(path, fold=fold)
        assert checkpoint.architecture.arguments["strides"] == [[1, 1, 1], [1, 2, 2], [2, 2, 2]]
    with pytest.raises(UserError, match="fold_1"):
        read_checkpoint(tmp_path / "model", fold=3)


@pytest.mark.parametrize("size", STUNET_SIZES)
def test_published_sizes_are_recognised(size, published_names):
    from nnunetv2_ext.checkpoints.formats.stunet_v1 import FORMAT
    from nnunetv2_ext.checkpoints.raw import RawCheckpoint

    entry = STUNET_SIZES[size]
    with torch.device("meta"):
        network = STUNet(1, 105, **entry.arguments, strides=[[1, 1, 1]] + [[2, 2, 2]] * 5)
    raw = RawCheckpoint(Path("x.model"), published_names(network))
    assert FORMAT.recognises(raw)
    translation = FORMAT.translate(raw)
    assert translation.architecture.stunet_size == size
    assert f"STU-Net {size} (features {entry.features_per_stage[0]}..{entry.features_per_stage[-1]})" in str(
        translation.architecture
    )
    assert translation.architecture.arguments["strides"][-1] == [1, 1, 2]


def test_labels_of_the_published_stunet_are_lexicographic(write_v1, published_names, tiny_stunet):
    network = tiny_stunet(105, features_per_stage=[2] * 6, n_blocks_per_stage=1, strides=[[1, 1, 1]] + [[2, 2, 2]] * 5)
    checkpoint = read_checkpoint(write_v1(published_names(network), name="small_ep4k.model"))
    names = checkpoint.class_names
    assert names is not None
    assert len(names) == 105
    assert names[0] == "background"
    assert list(names[1:]) == sorted(names[1:])
    assert checkpoint.normalization is not None
    assert checkpoint.normalization["normalization_schemes"] == ["ZScoreNormalization"]
    assert any("nnU-Net v1" in note for note in checkpoint.notes)


def test_multitalent_outputs_are_47_named_regions_of_13_sources(reference_network, write_v1):
    reference = reference_network("multitalent_unet_v1")
    state = dict(reference.state)
    for name in [name for name in state if name.startswith("seg_outputs")]:
        state[name] = state[name].repeat(10, 1, 1, 1, 1)[:47]
    checkpoint = read_checkpoint(write_v1(state))
    assert checkpoint.class_names is not None
    assert len(checkpoint.class_names) == 47
    assert "background" not in checkpoint.class_names
    assert checkpoint.dataset_json is not None
    sources = checkpoint.dataset_json["partial_labels"]
    assert [len(source["classes"]) for source in sources.values()] == [2, 1, 2, 2, 1, 1, 13, 4, 8, 6, 4, 1, 2]
    assert all(name.startswith(f"{source}/") for source in sources for name in sources[source]["classes"])
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    assert checkpoint.labels is not None
    manager = LabelManager(checkpoint.labels, checkpoint.dataset_json["regions_class_order"])
    assert manager.num_segmentation_heads == 47
    assert manager.has_regions


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_stock_checkpoints_are_read_with_plans_and_labels(tmp_path, prefix):
    network = stock_unet()
    checkpoint = read_checkpoint(write_v2(tmp_path / "c.pth", network, plans_v2(UNET_ENTRY), prefix=prefix))
    assert checkpoint.format == "nnunet_v2"
    assert not any(".all_modules." in name or name.startswith("decoder.encoder") for name in checkpoint.network_state)
    assert checkpoint.class_names == ("background", "liver", "spleen")
    assert checkpoint.normalization is not None
    assert checkpoint.normalization["normalization_schemes"] == ["CTNormalization"]
    assert checkpoint.trainer_name == "nnUNetTrainer"
    assert checkpoint.inference_allowed_mirroring_axes == (0, 1)
    image = torch.randn(1, 1, 4, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(checkpoint.build_network()(image), network(image))


def test_a_stock_unet_is_recognised_without_any_plans(tmp_path):
    network = stock_unet()
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    checkpoint = read_checkpoint(tmp_path / "weights.pth")
    assert checkpoint.architecture.arguments == UNET_ENTRY["arch_kwargs"]
    assert checkpoint.plans is None
    image = torch.randn(1, 1, 4, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(checkpoint.build_network()(image), network(image))


@pytest.mark.parametrize("plans_entry", [UNET_ENTRY, STUNET_ENTRY])
def test_an_stunet_trained_on_plans_of_another_network_is_still_an_stunet(tmp_path, plans_entry, tiny_stunet):
    network = tiny_stunet()
    path = write_v2(tmp_path / "c.pth", network, plans_v2(plans_entry), trainer="STUNetTrainer_small")
    checkpoint = read_checkpoint(path)
    assert checkpoint.architecture.to_plans() == STUNET_ENTRY
    assert checkpoint.plans is not None
    assert checkpoint.plans["configurations"]["3d_fullres"]["architecture"] == STUNET_ENTRY
    image = torch.randn(1, 1, 4, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(checkpoint.build_network()(image), network(image))


def test_weights_of_the_published_fork_for_nnunet_v2_are_read(tmp_path, published_names, tiny_stunet):
    network = tiny_stunet()
    path = write_v2(tmp_path / "c.pth", network, plans_v2(UNET_ENTRY), trainer="STUNetTrainer_base")
    content = torch.load(path, weights_only=False)
    content["network_weights"] = published_names(network)
    torch.save(content, path)
    checkpoint = read_checkpoint(path)
    assert checkpoint.format == "stunet_v1"
    assert checkpoint.architecture.arguments["strides"] == [[1, 1, 1], [1, 2, 2], [2, 2, 2]]
    assert checkpoint.class_names == ("background", "liver", "spleen")


def test_plans_of_the_model_folder_count_more_than_those_in_the_file(tmp_path):
    other = {**UNET_ENTRY, "network_class_name": "os.system"}
    write_v2(tmp_path / "fold_0" / "checkpoint_final.pth", stock_unet(), plans_v2(other))
    write_json(plans_v2(UNET_ENTRY, patch_size=[4, 4, 4]), tmp_path / "plans.json")
    checkpoint = read_checkpoint(tmp_path)
    assert checkpoint.plans is not None
    assert checkpoint.plans["configurations"]["3d_fullres"]["patch_size"] == [4, 4, 4]


def test_configurations_that_inherit_are_resolved(tmp_path):
    plans = plans_v2(UNET_ENTRY)
    plans["configurations"]["3d_fullres_bs4"] = {"inherits_from": "3d_fullres", "batch_size": 4}
    path = write_v2(tmp_path / "c.pth", stock_unet(), plans)
    checkpoint = read_checkpoint(path, configuration="3d_fullres_bs4")
    assert checkpoint.normalization is not None
    assert checkpoint.normalization["normalization_schemes"] == ["CTNormalization"]
    with pytest.raises(UserError, match="3d_lowres"):
        read_checkpoint(path, configuration="3d_lowres")


@pytest.mark.parametrize("entry", [UNET_ENTRY, STUNET_ENTRY])
def test_safetensors_hold_all_that_a_checkpoint_knows(tmp_path, entry, tiny_stunet):
    network = stock_unet() if entry is UNET_ENTRY else tiny_stunet()
    original = read_checkpoint(write_v2(tmp_path / "c.pth", network, plans_v2(entry)))
    write_safetensors(original, tmp_path / "c.safetensors")
    copy = read_checkpoint(tmp_path / "c.safetensors")
    assert copy.architecture.to_plans() == original.architecture.to_plans()
    for attribute in ("labels", "plans", "dataset_json", "configuration", "num_classes", "trainer_name"):
        assert getattr(copy, attribute) == getattr(original, attribute), attribute
    assert copy.inference_allowed_mirroring_axes == original.inference_allowed_mirroring_axes
    assert copy.network_state.keys() == original.network_state.keys()
    for name, tensor in copy.network_state.items():
        assert torch.equal(tensor, original.network_state[name])


def test_2d_networks_are_read(write_v1, plans_v1, published_names, tiny_stunet):
    network = tiny_stunet(strides=[[1, 1], [2, 2], [1, 2]])
    with pytest.raises(UserError, match="2D STU-Net"):
        read_checkpoint(write_v1(published_names(network)))
    plans = plans_v1([[2, 2], [1, 2]], [16, 32], [3.0, 1.5, 1.5])
    checkpoint = read_checkpoint(write_v1(published_names(network), plans=plans))
    assert checkpoint.configuration == "2d"
    assert checkpoint.plans is not None
    assert checkpoint.plans["configurations"]["2d"]["spacing"] == [1.5, 1.5]
    image = torch.randn(1, 1, 8, 16)
    with torch.no_grad():
        torch.testing.assert_close(checkpoint.build_network()(image), network(image))


class RunsACommand:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def test_code_in_a_checkpoint_or_its_pickle_does_not_run(write_v1, plans_v1, tmp_path, published_names, tiny_stunet):
    marker = tmp_path / "executed"
    state = published_names(tiny_stunet())
    path = write_v1({**state, "evil": RunsACommand(marker)}, name="evil.model")
    with pytest.raises(UserError, match="safely"):
        read_checkpoint(path)
    path = write_v1(
        state, name="good.model", plans={**plans_v1([[2, 2, 2]], [8] * 3, [1] * 3), "x": RunsACommand(marker)}
    )
    with pytest.raises(UserError, match="system"):
        read_checkpoint(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    "damage",
    [
        {"network_class_name": "os.system"},
        {"network_class_name": "subprocess.Popen"},
        {"arch_kwargs": {**UNET_ENTRY["arch_kwargs"], "nonlin": "builtins.eval"}},
        {"network_class_name": "torch.nn.modules.module.warnings.warn"},
        {"network_class_name": "torch.nn.functional.relu"},
        {"network_class_name": "torch.nn.DoesNotExist"},
    ],
)
def test_plans_with_foreign_classes_are_refused(tmp_path, damage):
    path = write_v2(tmp_path / "c.pth", stock_unet(), plans_v2({**UNET_ENTRY, **damage}))
    with pytest.raises(UserError, match=r"Expected a network class"):
        read_checkpoint(path)


def test_a_foreign_module_is_refused_before_it_is_imported(tmp_path, monkeypatch, tiny_stunet):
    marker = tmp_path / "executed"
    (tmp_path / "evil_module.py").write_text(f"open({str(marker)!r}, 'w').close()\nclass Net: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    entry = {**UNET_ENTRY, "network_class_name": "evil_module.Net"}
    path = write_v2(tmp_path / "c.pth", tiny_stunet(), plans_v2(entry))
    with pytest.raises(UserError, match="evil_module"):
        read_checkpoint(path)
    assert not marker.exists()


@pytest.mark.parametrize("kept", [0.0, 0.4, 0.95])
@pytest.mark.parametrize("suffix", [".model", ".safetensors"])
def test_truncated_files_are_refused(tmp_path, write_v1, kept, suffix, published_names, tiny_stunet):
    path = write_v1(published_names(tiny_stunet()))
    if suffix == ".safetensors":
        checkpoint = read_checkpoint(path)
        path = tmp_path / "c.safetensors"
        write_safetensors(checkpoint, path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(UserError, match=r"truncated|not a checkpoint"):
        read_checkpoint(path)


def test_unknown_weights_and_missing_files_are_refused(tmp_path):
    torch.save({"state_dict": nn.Linear(2, 2).state_dict()}, tmp_path / "linear.pth")
    with pytest.raises(UserError, match="no known format"):
        read_checkpoint(tmp_path / "linear.pth")
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    with pytest.raises(UserError, match="Expected network weights"):
        read_checkpoint(tmp_path / "empty.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(UserError, match="found a list"):
        read_checkpoint(tmp_path / "list.pth")
    with pytest.raises(UserError, match="there is none"):
        read_checkpoint(tmp_path / "missing.pth")
    with pytest.raises(UserError, match="found none"):
        read_checkpoint(tmp_path / "..")
    (tmp_path / "x.model.pkl").write_bytes(b"")
    with pytest.raises(UserError, match="plans, not weights"):
        read_checkpoint(tmp_path / "x.model.pkl")


def test_incomplete_weights_are_refused(tmp_path, write_v1, published_names, tiny_stunet):
    state = published_names(tiny_stunet())
    for name in ("conv_blocks_localization.1.0.conv2.weight", "seg_outputs.0.weight"):
        with pytest.raises(UserError, match=r"missing|incomplete"):
            read_checkpoint(write_v1({key: value for key, value in state.items() if key != name})).build_network()
    with pytest.raises(UserError, match="do not belong"):
        read_checkpoint(write_v1({**state, "extra.weight": torch.zeros(1)}))


def test_details_that_weights_do_not_tell_come_from_the_plans(tmp_path):
    relu = {**UNET_ENTRY["arch_kwargs"], "nonlin": "torch.nn.ReLU"}
    path = write_v2(tmp_path / "c.pth", stock_unet(), plans_v2({**UNET_ENTRY, "arch_kwargs": relu}))
    assert read_checkpoint(path).architecture.arguments["nonlin"] == "torch.nn.ReLU"


def test_networks_that_their_trainer_chose_against_the_plans_are_told_by_their_names(tmp_path):
    other = {**UNET_ENTRY, "arch_kwargs": {**UNET_ENTRY["arch_kwargs"], "n_conv_per_stage": [2, 2, 2]}}
    network = stock_unet()
    checkpoint = read_checkpoint(write_v2(tmp_path / "c.pth", network, plans_v2(other), trainer="SomeTrainer"))
    assert checkpoint.architecture.arguments == UNET_ENTRY["arch_kwargs"]


@pytest.mark.parametrize("planned", ["dynamic_network_architectures.architectures.unet.ResidualEncoderUNet", None])
def test_multitalents_residual_encoder_is_told_from_the_stock_one(tmp_path, planned):
    arguments = {key: value for key, value in UNET_ENTRY["arch_kwargs"].items() if key != "n_conv_per_stage"}
    entry = {**UNET_ENTRY, "arch_kwargs": {**arguments, "n_blocks_per_stage": [1, 2, 1]}}
    entry["network_class_name"] = "nnunetv2_ext.architectures.resenc.StridedSkipResidualEncoderUNet"
    network = Architecture.from_plans({"architecture": entry}).build(1, 3, deep_supervision=False).eval()
    plans = plans_v2({**entry, "network_class_name": planned}) if planned else None
    checkpoint = read_checkpoint(write_v2(tmp_path / "c.pth", network, plans, trainer="MultiTalentTrainer_resenc"))
    assert checkpoint.architecture.to_plans() == entry
    image = torch.randn(1, 1, 4, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(checkpoint.build_network()(image), network(image))


def test_swinunetr_is_told_by_its_names(tmp_path):
    swinunetr = pytest.importorskip("nnunetv2_ext.architectures.swinunetr", reason="the extra 'monai' is not installed")
    torch.manual_seed(0)
    network = swinunetr.SwinUNETR(1, 3, feature_size=12, dimensions=2, activation_checkpointing=False).eval()
    path = write_v2(tmp_path / "c.pth", network, plans_v2(UNET_ENTRY), trainer="MultiTalentTrainer_swinunetr")
    checkpoint = read_checkpoint(path)
    image = torch.randn(1, 1, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(checkpoint.build_network()(image), network(image))


def test_weights_of_another_network_than_the_plans_name_are_refused(tmp_path):
    network = nn.ModuleDict({"decoder": nn.ModuleDict({"seg_layers": nn.ModuleList([nn.Conv3d(4, 3, 1)])})})
    path = write_v2(tmp_path / "c.pth", network, plans_v2(UNET_ENTRY), trainer="SomeTrainer")
    with pytest.raises(UserError, match="SomeTrainer"):
        read_checkpoint(path)


def test_labels_that_do_not_fit_the_outputs_are_refused(tmp_path):
    path = write_v2(tmp_path / "c.pth", stock_unet(), plans_v2(UNET_ENTRY), labels={"background": 0, "liver": 1})
    with pytest.raises(UserError, match=r"2 outputs.* 3"):
        read_checkpoint(path)
    checkpoint = read_checkpoint(path, labels={"background": 0, "a": 1, "b": 2})
    assert checkpoint.class_names == ("background", "a", "b")


def test_one_of_several_checkpoints_has_to_be_named(tmp_path, tiny_stunet):
    for name in ("first.pth", "second.pth"):
        write_v2(tmp_path / name, tiny_stunet(), plans_v2(STUNET_ENTRY))
    with pytest.raises(
        UserError, match=r"Expected one checkpoint in .*, but found first\.pth, second\.pth; give the file"
    ):
        read_checkpoint(tmp_path)
    (tmp_path / "second.pth").unlink()
    assert read_checkpoint(tmp_path).path == tmp_path / "first.pth"


@pytest.mark.parametrize("plans", [{}, {"configurations": {}}, [1]], ids=str)
def test_plans_that_are_none_are_refused(tmp_path, tiny_stunet, plans):
    path = write_v2(tmp_path / "c.pth", tiny_stunet(), plans_v2(STUNET_ENTRY))
    write_json(plans, tmp_path / "plans.json")
    with pytest.raises(UserError, match=r"Expected an object .*configurations in .*plans\.json"):
        read_checkpoint(path, plans=tmp_path / "plans.json")


@pytest.mark.parametrize(("metadata", "sentence"), [("{", "Expected JSON"), ("[]", "Expected an object")])
def test_safetensors_with_other_metadata_are_refused(tmp_path, tiny_stunet, metadata, sentence):
    from safetensors.torch import save_file

    from nnunetv2_ext.checkpoints.raw import METADATA_KEY

    path = tmp_path / "weights.safetensors"
    save_file(tiny_stunet().state_dict(), path, {METADATA_KEY: metadata})
    with pytest.raises(UserError, match=rf"{sentence}.*|.*{METADATA_KEY}.*{sentence}"):
        read_checkpoint(path)


def test_a_pickle_without_plans_beside_the_weights_is_refused(write_v1, published_names, tiny_stunet):
    path = write_v1(published_names(tiny_stunet()))
    path.with_name(f"{path.name}.pkl").write_bytes(pickle.dumps({"plans": {"patch_size": [8, 8, 8]}}))
    with pytest.raises(
        UserError, match=r"Expected nnU-Net v1 plans in .*\.model\.pkl, but found none; remove the file"
    ):
        read_checkpoint(path)


def test_plans_of_another_dimension_are_refused(write_v1, plans_v1, published_names, tiny_stunet):
    plans = plans_v1([[2, 2], [1, 2]], [16, 32], [3.0, 1.5, 1.5])
    with pytest.raises(UserError, match="are 3D, but the plans are 2D; give the plans"):
        read_checkpoint(write_v1(published_names(tiny_stunet()), plans=plans))


def test_normalisation_that_v2_does_not_know_is_refused(write_v1, plans_v1, published_names, tiny_stunet):
    plans = plans_v1([[1, 2, 2], [2, 2, 2]], [8, 16, 16], [1.5, 1.5, 1.5], scheme="CT4")
    with pytest.raises(UserError, match="but found CT4, which nnU-Net v2 does not have; give v2 plans with --plans"):
        read_checkpoint(write_v1(published_names(tiny_stunet()), plans=plans))
