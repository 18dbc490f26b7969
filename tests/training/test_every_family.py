"""Fine-tuning with every network of the registry, to every kind of dataset, through the commands."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from dynamic_network_architectures.architectures import primus, unet
from nnunetv2.training.logging.nnunet_logger import LocalLogger
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunetv2_ext.checkpoints import read_checkpoint
from nnunetv2_ext.cli import finetune, import_weights, train
from nnunetv2_ext.training import finetuning
from nnunetv2_ext.training.trainers.base import ExtTrainer

OURS, STOCK = "nnunetv2_ext.architectures.", "dynamic_network_architectures.architectures.unet."
STAGES = {
    "n_stages": 3,
    "features_per_stage": [4, 6, 8],
    "kernel_sizes": [[3, 3, 3]] * 3,
    "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]],
    "n_conv_per_stage_decoder": [1, 1],
    "conv_op": "torch.nn.modules.conv.Conv3d",
    "conv_bias": True,
    "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
    "norm_op_kwargs": {"eps": 1e-5, "affine": True},
    "nonlin": "torch.nn.LeakyReLU",
    "nonlin_kwargs": {"inplace": True},
}
RESIDUAL = {**STAGES, "n_blocks_per_stage": [1, 1, 1]}
S_WIDE = {"features_per_stage": [16, 32, 64, 128, 256, 256], "n_blocks_per_stage": [1] * 6}
MEDNEXT = {"init_filters": 4, "blocks_down": [1, 1], "blocks_bottleneck": 1, "blocks_up": [1, 1], "spatial_dims": 3}
#: Class path, arguments and edge of the patch.
NETWORKS: dict[str, tuple[str, dict[str, Any], int]] = {
    "stunet_small": (f"{OURS}stunet.STUNet", {**S_WIDE, "strides": [[1] * 3, [2] * 3, [2] * 3, *[[1] * 3] * 3]}, 24),
    "unet": (f"{STOCK}PlainConvUNet", {**STAGES, "n_conv_per_stage": [1, 1, 1]}, 24),
    "residual_encoder": (f"{STOCK}ResidualEncoderUNet", RESIDUAL, 24),
    "resenc": (f"{OURS}resenc.StridedSkipResidualEncoderUNet", RESIDUAL, 24),
    "swinunetr": (f"{OURS}swinunetr.SwinUNETR", {"feature_size": 12, "dimensions": 3}, 64),
    "mednext": (f"{OURS}mednext.MedNeXt", MEDNEXT, 24),
    "segresnet": (f"{OURS}monai_networks.SegResNet", {"init_filters": 8, "blocks_down": [1, 1], "blocks_up": [1]}, 24),
    "monai_unet": (f"{OURS}monai_networks.UNet", {"channels": [4, 8], "strides": [[2, 2, 2]], "num_res_units": 1}, 24),
}
#: At a rate of 0 what a training writes is what was transferred.
FLAGS = ["-device", "cpu", "--quiet", "--num_epochs", "1", "--iterations_per_epoch", "1", "--initial_lr", "0",
         "--val_iterations_per_epoch", "1", "--batch_size", "1", "--num_workers", "0"]  # fmt: skip
NO_WARM_UP = ["--warmup_heads", "0", "--warmup_network", "0"]


@pytest.fixture(autouse=True)
def training_alone(monkeypatch):
    """No final validation, no drawings; what stock nnU-Net preprocessed serves all plans, whose spacing is the same."""

    def reuse(plans_file, configuration, *_):
        plans = json.loads(plans_file.read_text(encoding="utf-8"))
        identifier = plans["configurations"][configuration]["data_identifier"]
        shutil.copytree(plans_file.parent / "nnUNetPlans_3d_fullres", plans_file.parent / identifier)

    usual = nnUNetTrainer.on_epoch_start

    def start(self):
        assert self.num_epochs == 1, "this trainer warms up"
        usual(self)

    monkeypatch.setattr(nnUNetTrainer, "on_epoch_start", start)
    monkeypatch.setattr(finetuning, "ensure_preprocessed", reuse)
    for trainer in (nnUNetTrainer, ExtTrainer):
        monkeypatch.setattr(trainer, "perform_actual_validation", lambda self, _=False: None)
    monkeypatch.setattr(nnUNetTrainer, "plot_network_architecture", lambda self: None)
    monkeypatch.setattr(LocalLogger, "plot_progress_png", lambda self, folder: None)
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")


def _pretrained(key, dataset, folder, labels):
    """A model folder of nnU-Net v2 with a tiny network of a family, as a training of softmax classes leaves it."""
    from nnunetv2_ext.checkpoints.formats.base import Architecture

    class_path, arguments, edge = NETWORKS[key]
    if class_path.startswith(f"{OURS}monai") or key in ("swinunetr", "mednext"):
        pytest.importorskip("monai", reason="the extra 'monai' is not installed")
    needs_import = tuple(name for name in ("conv_op", "norm_op", "nonlin") if name in arguments)
    architecture = Architecture(class_path, arguments, needs_import)
    torch.manual_seed(0)
    network = architecture.build(1, len(labels), deep_supervision=False)
    preprocessed = Path(os.environ["nnUNet_preprocessed"]) / dataset
    plans = json.loads((preprocessed / "nnUNetPlans.json").read_text(encoding="utf-8"))
    configuration = {**plans["configurations"]["3d_fullres"], "patch_size": [edge] * 3}
    configuration["architecture"] = architecture.to_plans()
    plans["configurations"] = {"3d_fullres": configuration}
    dataset_json = {"channel_names": {"0": "CT"}, "file_ending": ".nii.gz", "labels": labels, "numTraining": 0}
    content = {
        "network_weights": network.state_dict(),
        "trainer_name": "nnUNetTrainer",
        "init_args": {"plans": plans, "configuration": "3d_fullres", "dataset_json": dataset_json, "fold": 0},
        "inference_allowed_mirroring_axes": None,
    }
    (folder / "fold_0").mkdir(parents=True)
    torch.save(content, folder / "fold_0" / "checkpoint_final.pth")
    (folder / "plans.json").write_text(json.dumps(plans), encoding="utf-8")
    (folder / "dataset.json").write_text(json.dumps(dataset_json), encoding="utf-8")
    return folder


def _result(trainer):
    (file,) = Path(os.environ["nnUNet_results"]).glob(f"*/{trainer}__*/fold_0/checkpoint_final.pth")
    return file


def _weights(file):
    content = torch.load(file, weights_only=False)["network_weights"]
    return {name: value for name, value in content.items() if "running" not in name and "num_batches" not in name}


HEAVY = ("swinunetr", "stunet_small")


@pytest.mark.parametrize("key", [pytest.param(k, marks=[pytest.mark.slow] * (k in HEAVY)) for k in NETWORKS])
def test_every_network_is_fine_tuned_on_its_own_classes(key, tiny_dataset, tmp_path):
    labels = {"background": 0, "liver": 1, "spleen": 2}
    folder = _pretrained(key, tiny_dataset, tmp_path / "model", labels)
    flags = [] if key in ("stunet_small", "segresnet", "monai_unet") else NO_WARM_UP
    assert finetune.main(["7", "3d_fullres", "0", "-pretrained_weights", str(folder), *FLAGS, *flags]) == 0
    before, after = _weights(folder / "fold_0" / "checkpoint_final.pth"), _weights(_result("*"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def _as_before_2_4(plans):
    """The entries that plans had for their network, such as those of TotalSegmentator's models have."""
    configuration = plans["configurations"]["3d_fullres"]
    arguments = configuration.pop("architecture")["arch_kwargs"]
    configuration |= {
        "UNet_class_name": "PlainConvUNet",
        "UNet_base_num_features": 4,
        "unet_max_num_features": 6,
        "n_conv_per_stage_encoder": arguments["n_conv_per_stage"],
        "n_conv_per_stage_decoder": arguments["n_conv_per_stage_decoder"],
        "num_pool_per_axis": [2, 2, 2],
        "pool_op_kernel_sizes": arguments["strides"],
        "conv_kernel_sizes": arguments["kernel_sizes"],
    }


def test_models_from_before_nnunet_2_4_are_imported_and_fine_tuned(tiny_dataset, tmp_path, monkeypatch):
    class_path, arguments, edge = NETWORKS["unet"]
    old_features = {**arguments, "features_per_stage": [4, 6, 6]}
    monkeypatch.setitem(NETWORKS, "unet", (class_path, old_features, edge))
    folder = _pretrained("unet", tiny_dataset, tmp_path / "model", {"background": 0, "liver": 1, "spleen": 2})
    file = folder / "fold_0" / "checkpoint_final.pth"
    content = torch.load(file, weights_only=False)
    _as_before_2_4(content["init_args"]["plans"])
    torch.save(content, file)
    (folder / "plans.json").write_text(json.dumps(content["init_args"]["plans"]), encoding="utf-8")

    assert import_weights.main([str(folder), "-d", "Dataset101_Old", "--quiet"]) == 0
    (imported,) = (Path(os.environ["nnUNet_results"]) / "Dataset101_Old").glob("*/fold_0/checkpoint_final.pth")
    before = _weights(file)
    assert all(torch.equal(value, before[name]) for name, value in _weights(imported).items())
    flags = ["7", "3d_fullres", "0", "-pretrained_weights", str(folder), *FLAGS, *NO_WARM_UP]
    assert finetune.main(flags) == 0
    after = _weights(_result("FineTuneTrainer_unet"))
    assert all(torch.equal(value, before[name]) for name, value in after.items())


@pytest.mark.parametrize(
    ("key", "trainer"),
    [
        pytest.param("stunet_small", "MultiTalentTrainer_stunet_small", marks=pytest.mark.slow),
        pytest.param("swinunetr", "MultiTalentTrainer_swinunetr", marks=pytest.mark.slow),
        ("unet", "MultiTalentTrainer_unet"),
        ("resenc", "MultiTalentTrainer_resenc"),
        ("residual_encoder", "MultiTalentTrainer"),
        ("mednext", "MultiTalentTrainer_mednext"),
        ("segresnet", "MultiTalentTrainer"),
        ("monai_unet", "MultiTalentTrainer"),
    ],
)
def test_collections_are_trained_as_collections(key, trainer, tiny_collection, tmp_path):
    folder = _pretrained(key, tiny_collection, tmp_path / "model", {"background": 0, "A/liver": 1, "A/tumour": 2})
    assert finetune.main(["8", "3d_fullres", "0", "-pretrained_weights", str(folder), *FLAGS]) == 0
    before, after = _weights(folder / "fold_0" / "checkpoint_final.pth"), _weights(_result(trainer))
    if key == "monai_unet":
        assert torch.equal(after["model.0.conv.unit0.conv.weight"], before["model.0.conv.unit0.conv.weight"])
    else:
        heads = "decoder.seg_layers.0.weight"
        assert torch.equal(after[heads][:2], before[heads][1:] - before[heads][:1])


def test_heads_of_sources_start_from_heads_of_plain_weights(tiny_collection, tmp_path):
    folder = _pretrained("unet", tiny_collection, tmp_path / "model", {"background": 0, "A/liver": 1, "A/tumour": 2})
    flags = ["8", "3d_fullres", "0", "-pretrained_weights", str(folder), "-tr", "MultiTalentV2Trainer", *FLAGS]
    assert finetune.main(flags) == 0
    before = _weights(folder / "fold_0" / "checkpoint_final.pth")
    after = _weights(_result("MultiTalentV2Trainer"))
    for name in ("decoder.seg_layers.0.weight", "encoder.stages.0.0.convs.0.conv.weight"):
        assert torch.equal(after[name.replace("seg_layers.", "seg_layers.000.")], before[name])
    assert not torch.equal(after["decoder.seg_layers.001.0.weight"], before["decoder.seg_layers.0.weight"])


def test_weights_of_several_heads_start_from_the_stem_that_is_chosen(tiny_dataset, published_multitalent, tmp_path):
    model = published_multitalent("stem per dataset")
    folder = model.write(tmp_path / "model")
    flags = ["7", "3d_fullres", "0", "-pretrained_weights", str(folder), *FLAGS, *NO_WARM_UP]
    assert finetune.main([*flags, "--stem", "4"]) == 2
    assert finetune.main([*flags, "--stem", "3"]) == 0
    after = _weights(_result("FineTuneTrainer"))
    stem = "encoder.stem.003.convs.0.conv.weight"
    assert torch.equal(after[stem.replace("003.", "")], model.state[stem])
    # The head's liver is that of the dataset; the spleen is in no head.
    liver, theirs = after["decoder.seg_layers.1.weight"], model.state["decoder.seg_layers.003.1.weight"]
    assert torch.equal(liver[1], theirs[1] - theirs[0])
    assert not liver[0].any()


def test_trees_start_from_plain_weights_and_plain_networks_from_trees(tiny_tree_collection, tmp_path):
    labels = {"background": 0, "rib": 1, "hip": 2}
    folder = _pretrained("unet", tiny_tree_collection, tmp_path / "model", labels)
    assert finetune.main(["9", "3d_fullres", "0", "-pretrained_weights", str(folder), *FLAGS]) == 0
    tree = _result("LabelTreeTrainer_unet")
    before, after = _weights(folder / "fold_0" / "checkpoint_final.pth"), _weights(tree)
    heads = "decoder.seg_layers.0.weight"
    # Nodes 3 and 4 are rib and hip.
    assert torch.equal(after[heads][3:5], before[heads][1:] - before[heads][:1])

    checkpoint = read_checkpoint(tree)
    network = checkpoint.build_network()
    assert sorted(network(torch.zeros(1, 1, 24, 24, 24)).argmax(1).unique().tolist())[-1] in (0, 3, 4, 5)

    raw = Path(os.environ["nnUNet_preprocessed"]) / tiny_tree_collection / "dataset.json"
    content = json.loads(raw.read_text(encoding="utf-8"))
    del content["label_tree"], content["partial_labels"]
    content["labels"] = {"background": 0, "thigh": 1, "bones": 2, "rib": 3, "hip": 4, "other": 5}
    raw.write_text(json.dumps(content), encoding="utf-8")
    flags = ["9", "3d_fullres", "0", "-tr", "FineTuneTrainer_unet", "-pretrained_weights", str(tree), *FLAGS]
    assert train.main([*flags, "-p", tree.parents[1].name.split("__")[1], *NO_WARM_UP]) == 0
    plain = _weights(_result("FineTuneTrainer_unet"))
    assert torch.equal(plain[heads][2:5], after[heads][2:5])


def _lightning_encoder():
    """CT-FM's self-supervised encoder, a member of a training module."""
    from monai.networks import nets

    network = nets.SegResNetDS(init_filters=8, in_channels=1, blocks_down=(1, 1), dsdepth=1)
    state = {f"backbone.{name}": t for name, t in network.state_dict().items() if name.startswith("encoder.")}
    return {"state_dict": state, "epoch": 100}


def _suprem(name, prefix="", **arguments):
    from monai.networks import nets

    state = getattr(nets, name)(in_channels=1, out_channels=25, **arguments).state_dict()
    kept = {f"module.{prefix}{name}": tensor for name, tensor in state.items() if not name.startswith("out.")}
    return {"net": kept, "epoch": 2100}


def _vista3d():
    from monai.networks import nets
    from monai.networks.nets.vista3d import ClassMappingClassify, PointMappingSAM

    encoder = nets.SegResNetDS2(in_channels=1, out_channels=8, init_filters=8, blocks_down=(1, 1), norm="instance")
    head = ClassMappingClassify(n_classes=133, feature_size=8)
    return nets.VISTA3D(encoder, head, PointMappingSAM(feature_size=8, n_classes=133)).state_dict()


def _nnssl(name, network, encoder, stem):
    configuration = {"spacing": [1, 1, 1], "patch_size": [16, 16, 16], "normalization_schemes": ["ZScoreNormalization"]}
    plan = {
        "architecture_plans": {"arch_class_name": name, "arch_kwargs": None},
        "pretrain_plan": {"configurations": {"onemmiso": configuration}},
        "pretrain_num_input_channels": 1,
        "recommended_downstream_patchsize": [24, 24, 24],
        "key_to_encoder": encoder,
        "key_to_stem": stem,
    }
    return {"network_weights": network.state_dict(), "nnssl_adaptation_plan": plan, "trainer_name": "BaseMAETrainer"}


def _openmind():
    from torch import nn

    kinds = {"conv_op": nn.Conv3d, "norm_op": nn.InstanceNorm3d, "nonlin": nn.LeakyReLU}
    network = unet.ResidualEncoderUNet(1, num_classes=1, **{**RESIDUAL, **kinds})
    return _nnssl("ResEncL", network, "encoder.stages", "encoder.stem")


def _openmind_primus():
    network = primus.Primus(1, 36, (8, 8, 8), 1, eva_depth=1, eva_numheads=6, input_shape=(16, 16, 16))
    return _nnssl("PrimusS", network, "eva", "down_projection")


#: What is published -> what makes such a file, the trainer that fine-tunes it, and a part of its licence.
PUBLISHED = {
    "ctfm": (_lightning_encoder, "FineTuneTrainer", "Apache-2.0"),
    "suprem_segresnet": (
        lambda: _suprem("SegResNet", spatial_dims=3, init_filters=8, blocks_down=(1, 1), blocks_up=(1,)),
        "SegResNetTrainer",
        "CC BY-NC-ND 4.0",
    ),
    "suprem_swinunetr": (
        lambda: _suprem("SwinUNETR", "backbone.", feature_size=12),
        "FineTuneTrainer_swinunetr",
        "CC BY-NC-ND 4.0",
    ),
    "vista3d": (_vista3d, "FineTuneTrainer", "NVIDIA License"),
    "openmind_resenc": (_openmind, "FineTuneTrainer", "CC BY 4.0"),
    "openmind_primus": (_openmind_primus, "PrimusTrainer", "CC BY 4.0"),
}


QUICK = ("ctfm", "suprem_segresnet", "openmind_primus")


@pytest.mark.parametrize("key", [pytest.param(k, marks=[pytest.mark.slow] * (k not in QUICK)) for k in PUBLISHED])
def test_published_weights_are_fine_tuned(key, tiny_dataset, tmp_path, capsys):
    if not key.startswith("openmind"):
        pytest.importorskip("monai", reason="the extra 'monai' is not installed")
    make, trainer, licence = PUBLISHED[key]
    torch.manual_seed(0)
    torch.save(make(), tmp_path / "published.pth")
    flags = NO_WARM_UP if trainer.startswith("FineTune") else []
    arguments = ["7", "3d_fullres", "0", "-pretrained_weights", str(tmp_path / "published.pth"), "--adapt", "dataset"]
    assert finetune.main([*arguments, *(flag for flag in FLAGS if flag != "--quiet"), *flags]) == 0
    printed = capsys.readouterr()
    assert f"Licence: {licence}" in printed.out + printed.err
    checkpoint, after = read_checkpoint(tmp_path / "published.pth"), _weights(_result(trainer))
    heads = checkpoint.architecture.family.heads
    same = [name for name in checkpoint.network_state if name in after and not name.startswith(heads)]
    assert len(same) > 10
    for name in same:
        if name != "eva.pos_embed":
            assert torch.equal(after[name], checkpoint.network_state[name]), name


@pytest.mark.parametrize("trainer", ["STUNetTrainer_small_ft", "FineTuneTrainer_unet", "nnUNetTrainer"])
def test_trainers_refuse_datasets_of_another_kind(trainer, tiny_collection, capsys):
    assert train.main(["8", "3d_fullres", "0", "-tr", trainer, *FLAGS]) == 2
    better = "MultiTalentTrainer_stunet_small." if "STUNet" in trainer else "MultiTalentTrainer."
    assert f"the dataset.json is that of a collection of partially labelled datasets; train with -tr {better}" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize("trainer", ["STUNetTrainer_small", "MultiTalentTrainer_unet", "nnUNetTrainer"])
def test_trainers_refuse_trees(trainer, tiny_tree_collection, capsys):
    assert train.main(["9", "3d_fullres", "0", "-tr", trainer, *FLAGS]) == 2
    assert "is that of a collection with a label tree; train with -tr LabelTree" in capsys.readouterr().err
