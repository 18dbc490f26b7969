from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch

from nnunetv2_ext.architectures.stunet import STUNET_SIZES
from nnunetv2_ext.checkpoints import read_checkpoint
from nnunetv2_ext.cli import finetune as command
from nnunetv2_ext.cli import train as train_command
from nnunetv2_ext.training import finetuning
from nnunetv2_ext.training.finetuning import ensure_plans, finetune, plans_name_for, trainer_for
from nnunetv2_ext.training.options import TrainingOptions
from nnunetv2_ext.training.run_training import TrainingRun, initialize_from_pretrained, make_trainer
from nnunetv2_ext.utilities.errors import UserError

ONE_STEP = TrainingOptions(
    num_epochs=1, iterations_per_epoch=1, val_iterations_per_epoch=1, batch_size=1, num_workers=0, initial_lr=0.0
)


@pytest.fixture
def pretrained(tiny_dataset, tmp_path):
    """A checkpoint of STUNetTrainer_small on the tiny dataset, with its plans beside it as nnU-Net leaves them."""
    trainer = make_trainer(TrainingRun(tiny_dataset, "3d_fullres", 0, "STUNetTrainer_small", device="cpu"))
    trainer.initialize()
    file = Path(trainer.output_folder) / "checkpoint_final.pth"
    trainer.save_checkpoint(str(file))
    folder = file.parents[1]
    (folder / "plans.json").write_text(json.dumps(trainer.plans_manager.plans))
    (folder / "dataset.json").write_text(json.dumps(trainer.dataset_json))
    return file


def test_the_fitting_trainer_is_picked(pretrained):
    checkpoint = read_checkpoint(pretrained)
    assert checkpoint.architecture.stunet_size == "S"
    dataset_json = {"labels": {"background": 0, "liver": 1}}
    assert trainer_for(checkpoint, dataset_json) == f"STUNetTrainer_{STUNET_SIZES['S'].name}_ft"
    assert trainer_for(checkpoint, dataset_json, warm_up=True) == "STUNetTrainer_small_ft_warmup"


@pytest.mark.slow
@pytest.mark.usefixtures("threads_instead_of_processes")
@pytest.mark.parametrize("source", ["file", "model folder"])
def test_fine_tuning_starts_from_the_pretrained_weights(pretrained, tiny_dataset, source, monkeypatch):
    monkeypatch.setenv("nnUNet_n_proc_DA", "1")
    path = pretrained if source == "file" else pretrained.parents[1]
    finetune(
        dataset="7",
        configuration="3d_fullres",
        fold=0,
        pretrained_weights=str(path),
        device="cpu",
        num_processes=1,
        options=ONE_STEP,
    )
    (folder,) = Path(os.environ["nnUNet_results"]).glob("*/STUNetTrainer_small_ft__*/fold_0")
    # At a learning rate of zero what is written equals what was transferred; all classes have the same names here.
    before = read_checkpoint(pretrained).network_state
    after = read_checkpoint(folder / "checkpoint_final.pth").network_state
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    options = json.loads((folder / "training_options.json").read_text())
    assert options[0]["pretrained_weights"] == str(path)
    assert options[0]["options"]["batch_size"] == 1


def test_plans_of_the_pretraining_are_kept(pretrained, tiny_dataset):
    checkpoint = read_checkpoint(pretrained)
    file = ensure_plans(checkpoint, tiny_dataset, "3d_fullres", plans_name_for(checkpoint))
    made = json.loads(file.read_text())["configurations"]["3d_fullres"]
    assert checkpoint.plans is not None
    original = checkpoint.plans["configurations"]["3d_fullres"]
    for key in ("patch_size", "spacing", "normalization_schemes"):
        assert made[key] == original[key]
    # A second call uses what is there.
    stamp = file.stat().st_mtime_ns
    assert ensure_plans(checkpoint, tiny_dataset, "3d_fullres", plans_name_for(checkpoint)).stat().st_mtime_ns == stamp


def test_plans_can_be_adapted_to_the_dataset(pretrained, tiny_dataset, caplog):
    checkpoint = read_checkpoint(pretrained)
    assert checkpoint.plans is not None
    configuration = checkpoint.plans["configurations"]["3d_fullres"]
    # Trained on coarser and larger images, of which some other channel than CT was.
    configuration |= {"spacing": [3.0, 3.0, 3.0], "patch_size": [64, 64, 64]}
    configuration["normalization_schemes"] = ["ZScoreNormalization"]
    caplog.set_level("INFO")
    kept, adapted = (
        json.loads(ensure_plans(checkpoint, tiny_dataset, "3d_fullres", adapt=adapt).read_text(encoding="utf-8"))
        for adapt in ("pretraining", "dataset")
    )
    assert kept["plans_name"] + "_dataset" == adapted["plans_name"]
    before, after = (plans["configurations"]["3d_fullres"] for plans in (kept, adapted))
    assert (before["spacing"], before["patch_size"]) == ([3.0] * 3, [64] * 3)
    # The images are 24 voxels wide, 1 mm each.
    assert (after["spacing"], after["patch_size"]) == ([1.0] * 3, [24] * 3)
    assert (before["normalization_schemes"], after["normalization_schemes"]) == (
        ["ZScoreNormalization"],
        ["CTNormalization"],
    )
    folder = Path(os.environ["nnUNet_preprocessed"]) / tiny_dataset
    fingerprint = json.loads((folder / "dataset_fingerprint.json").read_text(encoding="utf-8"))
    own = fingerprint["foreground_intensity_properties_per_channel"]
    assert adapted["foreground_intensity_properties_per_channel"] == own
    assert before["architecture"] == after["architecture"]
    assert "adapted to the dataset: patch size [24, 24, 24], spacing [1.0, 1.0, 1.0]" in caplog.text
    # A second call uses what is there.
    assert ensure_plans(checkpoint, tiny_dataset, "3d_fullres", adapt="dataset").stem == adapted["plans_name"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--transfer", "encoder"], "--transfer says which pretrained weights to start from; give -pretrained_weights"),
        (
            ["--transfer", "backbone", "--class_mapping", "a=b", "-pretrained_weights", "x"],
            "--class_mapping pairs heads, which --transfer backbone leaves out",
        ),
    ],
)
def test_parts_of_nothing_are_refused(tiny_dataset, flags, message, capsys):
    words = ["7", "3d_fullres", "0", "-tr", "STUNetTrainer_small", "-device", "cpu", "--quiet"]
    assert train_command.main([*words, *flags]) == 2
    assert message in capsys.readouterr().err


def test_a_part_of_the_weights_is_transferred(pretrained, tiny_dataset):
    trainer = make_trainer(TrainingRun(tiny_dataset, "3d_fullres", 0, "STUNetTrainer_small", device="cpu"))
    initialize_from_pretrained(trainer, str(pretrained), part="encoder")
    before = read_checkpoint(pretrained).network_state
    equal = {name for name, value in trainer.network.state_dict().items() if torch.equal(before[name], value)}
    convolutions = {name for name in before if name.endswith("conv1.weight")}
    assert {name for name in convolutions if name in equal} == {
        name for name in convolutions if name.startswith("encoder.")
    }


def test_wrong_size_names_both_sides(pretrained, tiny_dataset, monkeypatch):
    monkeypatch.setattr(finetuning, "ensure_preprocessed", lambda *arguments: None)
    with pytest.raises(UserError, match=r"STU-Net S .*STU-Net B .*STUNetTrainer_small_ft"):
        finetune(
            dataset="7",
            configuration="3d_fullres",
            fold=0,
            pretrained_weights=str(pretrained),
            trainer="STUNetTrainer_base_ft",
            plans="nnUNetPlans",
            device="cpu",
        )


@pytest.fixture
def pretrained_on_a_collection(pretrained):
    """The same checkpoint, whose liver is that of one source of a collection."""
    file = pretrained.parents[1] / "dataset.json"
    labels = {"background": 0, "msd_liver/liver": 1, "spleen": 2}
    file.write_text(json.dumps({**json.loads(file.read_text()), "labels": labels}))
    return pretrained


def _finetune(pretrained, *flags):
    return command.main(
        ["7", "3d_fullres", "0", "-pretrained_weights", str(pretrained), "-device", "cpu", "-np", "1", "--num_epochs",
         "1", "--iterations_per_epoch", "1", "--val_iterations_per_epoch", "1", "--batch_size", "1", "--num_workers",
         "0", "--initial_lr", "0", "--quiet", *flags]
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.usefixtures("threads_instead_of_processes", "tiny_dataset")
def test_classes_are_mapped_by_name_and_a_resumed_run_keeps_its_own_weights(pretrained_on_a_collection, monkeypatch):
    monkeypatch.setenv("nnUNet_n_proc_DA", "1")
    before = read_checkpoint(pretrained_on_a_collection).network_state
    results = Path(os.environ["nnUNet_results"])
    mapping = ("--class_mapping", "liver=msd_liver/liver")

    # Without the mapping the liver's head is new, and the log says which pretrained class it might start from. The
    # trainer is named, and --c_or_start finds nothing to continue: both must keep the pretrained weights.
    monkeypatch.setenv("nnUNetv2_ext_allow_fresh_start", "0")
    assert _finetune(pretrained_on_a_collection, "-tr", "STUNetTrainer_small_ft", "--c_or_start") == 0
    (folder,) = results.glob("*/STUNetTrainer_small_ft__*/fold_0")
    after = read_checkpoint(folder / "checkpoint_final.pth").network_state
    head = "decoder.seg_layers.0.weight"
    assert torch.equal(after[head][[0, 2]], before[head][[0, 2]])
    assert not torch.equal(after[head][1], before[head][1])
    assert "add --class_mapping liver=msd_liver/liver" in next(folder.glob("training_log_*.txt")).read_text()

    monkeypatch.setenv("nnUNetv2_ext_allow_fresh_start", "0")
    again = ("-tr", "STUNetTrainer_small_ft", "--overwrite", *mapping)
    assert _finetune(pretrained_on_a_collection, *again) == 0
    file = folder / "checkpoint_final.pth"
    after = read_checkpoint(file).network_state
    assert all(torch.equal(before[name], after[name]) for name in before)
    logs = "".join(log.read_text() for log in folder.glob("training_log_*.txt"))
    assert "liver (from msd_liver/liver)" in logs
    assert json.loads((folder / "training_options.json").read_text())[0]["class_mapping"] == {
        "liver": "msd_liver/liver"
    }

    content = torch.load(file, weights_only=False)
    content["network_weights"][head] += 1
    torch.save(content, file)
    for flag in ("--c", "--c_or_start"):
        assert _finetune(pretrained_on_a_collection, "-tr", "STUNetTrainer_small_ft", flag, *mapping) == 0
        assert torch.equal(read_checkpoint(file).network_state[head], before[head] + 1)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--class_mapping", "liver=msd_liver/lvier"], "found msd_liver/lvier (no class of checkpoint_final.pth)"),
        (["--class_mapping", "spleen=spleen", "Leber=spleen"], "found Leber (no class of the dataset)"),
        (["--class_mapping", "liver"], "Expected --class_mapping TARGET=SOURCE, but got 'liver'"),
        (["--class_mapping", "liver=spleen", "--class_mapping", "liver=background"], "found spleen and background"),
    ],
)
def test_a_wrong_mapping_is_refused_before_anything_is_planned(
    pretrained_on_a_collection, tiny_dataset, flags, message, capsys
):
    folders = [Path(os.environ["nnUNet_preprocessed"]), Path(os.environ["nnUNet_results"])]
    before = [sorted(folder.rglob("*")) for folder in folders]
    assert _finetune(pretrained_on_a_collection, *flags) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert [sorted(folder.rglob("*")) for folder in folders] == before


def test_a_mapping_without_pretrained_weights_is_refused(tiny_dataset, capsys):
    from nnunetv2_ext.cli import train

    assert train.main(["7", "3d_fullres", "0", "-device", "cpu", "--class_mapping", "liver=A/liver"]) == 2
    assert "give -pretrained_weights" in capsys.readouterr().err


def test_a_2d_configuration_is_no_home_for_a_3d_network(pretrained, tiny_dataset, capsys):
    preprocessed = Path(os.environ["nnUNet_preprocessed"])
    before = sorted(preprocessed.rglob("*"))
    command_line = ["7", "2d", "0", "-pretrained_weights", str(pretrained), "-device", "cpu"]
    assert command.main(command_line) == 2
    assert "Expected a 3D configuration, such as 3d_fullres, for" in capsys.readouterr().err
    assert sorted(preprocessed.rglob("*")) == before


def test_plans_that_lack_the_configuration_are_named(pretrained, tiny_dataset, capsys):
    plans = Path(os.environ["nnUNet_preprocessed"]) / tiny_dataset / "mine.json"
    plans.write_text(json.dumps({"plans_name": "mine", "configurations": {"3d_lowres": {}}}))
    assert _finetune(pretrained, "-p", "mine") == 2
    assert f"in the plans {plans}, but they have 3d_lowres" in capsys.readouterr().err


@pytest.fixture
def planned(monkeypatch):
    """Ends fine-tunings before they preprocess and train; the runs that were to come, with their plans."""
    runs = []

    def note(run):
        file = Path(os.environ["nnUNet_preprocessed"]) / run.dataset / f"{run.plans}.json"
        runs.append((run, json.loads(file.read_text(encoding="utf-8"))))

    monkeypatch.setattr(finetuning, "ensure_preprocessed", lambda *arguments: None)
    monkeypatch.setattr("nnunetv2_ext.cluster.training.train", note)
    return runs


def _another(pretrained, folder, change):
    """A copy of a model folder whose plans are changed."""
    shutil.copytree(pretrained.parents[1], folder)
    plans = json.loads((folder / "plans.json").read_text(encoding="utf-8"))
    change(plans)
    (folder / "plans.json").write_text(json.dumps(plans), encoding="utf-8")
    return folder


@pytest.mark.parametrize("written_by", ["this version", "0.1.0"])
def test_pretrainings_whose_plans_have_one_name_do_not_share_a_file(
    pretrained, tiny_dataset, tmp_path, planned, written_by
):

    def coarser(plans):
        plans["configurations"]["3d_fullres"]["spacing"] = [2.0, 2.0, 2.0]

    def brighter(plans):
        plans["foreground_intensity_properties_per_channel"]["0"]["mean"] += 100

    others = [_another(pretrained, tmp_path / change.__name__, change) for change in (coarser, brighter)]
    folders = [pretrained, *others, pretrained, *others]
    for number, folder in enumerate(folders):
        assert _finetune(folder) == 0
        if number == 0 and written_by == "0.1.0":
            file = Path(os.environ["nnUNet_preprocessed"]) / tiny_dataset / f"{planned[0][0].plans}.json"
            plans = json.loads(file.read_text(encoding="utf-8"))
            plans.pop("made_from", None)
            file.write_text(json.dumps(plans), encoding="utf-8")
    spacings = [plans["configurations"]["3d_fullres"]["spacing"] for _, plans in planned]
    means = [plans["foreground_intensity_properties_per_channel"]["0"]["mean"] for _, plans in planned]
    assert spacings[1] == spacings[4] == [2.0, 2.0, 2.0] != spacings[0] == spacings[3]
    assert means[2] == means[5] == means[0] + 100 == means[3] + 100
    names = [run.plans for run, _ in planned]
    assert names[:3] == names[3:]
    assert names[0] == "pretrained_nnUNetPlans"
    assert len(set(names)) == 3


@pytest.mark.skipif(sys.platform == "win32", reason="Windows limits no sizes of files")
@pytest.mark.usefixtures("threads_instead_of_processes")
def test_a_disk_that_is_full_while_the_dataset_is_preprocessed_is_named(pretrained, tiny_dataset, capsys):
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 14, before[1]))
    try:
        assert _finetune(pretrained) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    error = capsys.readouterr().err
    assert "the disk does not take it (File too large)" in error
    assert "Traceback" not in error


def test_a_single_stage_of_a_cascade_is_planned_without_the_next(pretrained, tiny_dataset, tmp_path, planned):
    def cascade(plans):
        fullres = plans["configurations"]["3d_fullres"]
        plans["configurations"]["3d_lowres"] = {**fullres, "next_stage": "3d_cascade_fullres"}
        plans["configurations"]["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}

    folder = _another(pretrained, tmp_path / "cascade", cascade)
    flags = ["-pretrained_weights", str(folder), "-device", "cpu", "--quiet"]
    assert command.main(["7", "3d_lowres", "0", *flags]) == 0
    assert command.main(["7", "3d_cascade_fullres", "0", *flags, "-p", "both"]) == 0
    (_, alone), (_, both) = planned
    assert "next_stage" not in alone["configurations"]["3d_lowres"]
    # A stage that goes on from another one comes with it.
    assert both["configurations"]["3d_cascade_fullres"]["previous_stage"] == "3d_lowres"
    assert both["configurations"]["3d_lowres"]["next_stage"] == "3d_cascade_fullres"


def test_a_second_stage_needs_the_predictions_of_the_first(tiny_dataset, capsys):
    from nnunetv2_ext.cli import train

    file = Path(os.environ["nnUNet_preprocessed"]) / tiny_dataset / "nnUNetPlans.json"
    plans = json.loads(file.read_text(encoding="utf-8"))
    configurations = plans["configurations"]
    configurations["3d_lowres"] = {"inherits_from": "3d_fullres", "next_stage": "3d_cascade_fullres"}
    configurations["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    file.write_text(json.dumps(plans), encoding="utf-8")
    flags = ["7", "3d_cascade_fullres", "0", "-tr", "FineTuneTrainer_unet", "-device", "cpu", "--quiet"]
    assert train.main(flags) == 2
    assert "3d_cascade_fullres goes on from the predictions of 3d_lowres" in capsys.readouterr().err
