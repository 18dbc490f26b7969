"""Strings from files, names of files and inputs that vanish, in every command that meets them."""

from __future__ import annotations

import importlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

SHAPE = (6, 8, 7)
LABELS = {"background": 0, "liver": 1, "spleen": 2}
HOSTILE = "../../victim/x"


def _run(command, *arguments):
    """Runs a command in this process; what it raises beside its exit code is the test's failure."""
    return importlib.import_module(f"nnunetv2_ext.cli.{command}").main([str(argument) for argument in arguments])


def _map(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(np.random.default_rng(seed).integers(0, 3, SHAPE).astype(np.uint8))
    sitk.WriteImage(image, str(path))
    return path


def _files(folder, *, but=()):
    return {
        path: path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not any(path.is_relative_to(part) for part in but)
    }


@pytest.fixture
def inputs(tmp_path, make_raw_dataset, tiny_case, softmax_model):
    """Command -> (folder whose files are cases, its arguments), for commands that read folders of cases."""
    for case in "abc":
        _map(tmp_path / "maps" / f"{case}.nii.gz", ord(case))
        _map(tmp_path / "labelsTr" / f"{case}.nii.gz", ord(case))
        _map(tmp_path / "source/images" / f"{case}.nii.gz", ord(case))
        _map(tmp_path / "source/labels" / f"{case}.nii.gz", ord(case))
    described = {"channel_names": {"0": "CT"}, "labels": LABELS, "file_ending": ".nii.gz", "numTraining": 3}
    for folder in (tmp_path, tmp_path / "maps"):
        (folder / "dataset.json").write_text(json.dumps(described))
    (tmp_path / "order.json").write_text(json.dumps({"labels": {"liver": 1, "spleen": 2}}))
    merged = make_raw_dataset("Dataset003_Liver", LABELS, {case: tiny_case(ord(case), [1, 2]) for case in "abc"})
    order, out = tmp_path / "order.json", tmp_path / "out"
    return {
        "remap_labels": (tmp_path / "maps", ["-i", tmp_path / "maps", "-o", out, "--from", order, "--to", order]),
        "predict": (
            tmp_path / "maps",
            ["-i", tmp_path / "maps", "-o", out, "-m", softmax_model, "-f", 0, "-device", "cpu"],
        ),
        "evaluate": (tmp_path / "maps", ["-gt", tmp_path / "labelsTr", "-pred", tmp_path / "maps", "-o", out]),
        "convert_dataset": (
            tmp_path / "source/images",
            ["label_maps", "-i", tmp_path / "source", "-d", 7, "-n", "New", "--order", order],
        ),
        "merge_datasets": (merged / "imagesTr", [3, "-d", 8, "-n", "New"]),
    }  # fmt: skip


WITH_CASES = ["remap_labels", "predict", "evaluate", "convert_dataset", "merge_datasets"]
ONE_PROCESS = {"predict": ["-npp", 0, "-nps", 0, "--disable_progress_bar"]}


@pytest.mark.parametrize("command", [name for name in WITH_CASES if name != "merge_datasets"])
def test_two_inputs_of_one_name_are_refused_before_the_work(command, inputs, tmp_path, nnunet_folders, capsys):
    folder, arguments = inputs[command]
    # The converter of label maps looks for .nii.gz and .nii.
    other = "b.nii" if command == "convert_dataset" else "b.nrrd"
    _map(folder / other)
    overwrite = [] if command == "convert_dataset" else ["--overwrite"]
    assert _run(command, *arguments, *ONE_PROCESS.get(command, ["-np", 1]), *overwrite) == 2
    error = capsys.readouterr().err
    assert "Expected one file per case, but both" in error
    assert "b.nii.gz" in error
    assert str(folder / other) in error
    assert not list((tmp_path / "out").glob("*"))
    assert not (nnunet_folders / "nnUNet_raw" / "Dataset007_New").exists()


NO_FILES = {
    "link to nowhere": lambda path: path.symlink_to("gone.nii.gz"),
    "link to itself": lambda path: path.symlink_to(path.name),
    "link to a device": lambda path: path.symlink_to("/dev/zero"),
    "pipe": os.mkfifo,
}


@pytest.mark.parametrize("command", WITH_CASES)
@pytest.mark.parametrize("kind", NO_FILES)
def test_what_is_no_file_is_a_missing_case(kind, command, inputs, tmp_path, nnunet_folders, capsys):
    folder, arguments = inputs[command]
    name = "b_0000.nii.gz" if command == "merge_datasets" else "b.nii.gz"
    (folder / name).unlink()
    NO_FILES[kind](folder / name)
    # A merge is all or nothing.
    assert _run(command, *arguments, *ONE_PROCESS.get(command, ["-np", 1])) == (2 if command == "merge_datasets" else 1)
    shown = capsys.readouterr()
    assert name in shown.out + shown.err
    assert "Traceback" not in shown.err


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("remap_labels", ["-i", "LONG", "-o", "out", "--from", "word", "--to", "word"]),
        ("remap_labels", ["-i", "maps", "-o", "LONG", "--from", "word", "--to", "word"]),
        ("remap_labels", ["-i", "maps", "-o", "out", "--from", "LONG", "--to", "word"]),
        ("convert_dataset", ["label_maps", "-i", "LONG", "-d", "7", "--order", "word"]),
        ("convert_dataset", ["label_maps", "-i", "source", "-d", "7", "--order", "LONG"]),
        ("convert_dataset", ["label_maps", "-i", "source", "-d", "7", "--order", "order.json", "-n", "LONG"]),
        ("merge_datasets", ["LONG", "-d", "8", "-n", "New"]),
        ("merge_datasets", ["3", "-d", "8", "-n", "LONG"]),
        ("merge_datasets", ["LONG=3", "-d", "8", "-n", "New"]),
        ("predict", ["-i", "maps", "-o", "out", "-m", "LONG"]),
        ("predict", ["-i", "LONG", "-o", "out", "-m", "model"]),
        ("evaluate", ["-gt", "LONG", "-pred", "maps"]),
        ("evaluate", ["-gt", "labelsTr", "-pred", "LONG"]),
        ("evaluate", ["-gt", "labelsTr", "-pred", "maps", "-o", "LONG"]),
        ("export", ["-m", "LONG", "-o", "x.pt2", "--format", "torch_export"]),
        ("import_weights", ["LONG", "-d", "Dataset101_X"]),
        ("import_weights", ["model", "-d", "Dataset101_LONG"]),
        ("plan", ["-d", "3", "-t", "LONG"]),
        ("plan", ["-d", "3", "-t", "stunet_ct", "--name", "LONG"]),
        ("train", ["3", "3d_fullres", "0", "-device", "cpu", "-p", "LONG"]),
        ("finetune", ["3", "3d_fullres", "0", "-device", "cpu", "-pretrained_weights", "LONG"]),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)  # fmt: skip
def test_names_of_thousands_of_letters_are_refused_in_a_sentence(
    command, arguments, inputs, softmax_model, nnunet_folders, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").symlink_to(softmax_model)
    (nnunet_folders / "nnUNet_preprocessed" / "Dataset003_Liver").mkdir()
    before = _files(tmp_path)
    assert _run(command, *[argument.replace("LONG", "x" * 5000) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert "xxx" in error
    assert _files(tmp_path) == before


@pytest.mark.parametrize("key", ["configuration", "plans_name"])
def test_an_imported_model_stays_in_the_results(key, softmax_model, nnunet_folders, tmp_path, capsys):
    model = shutil.copytree(softmax_model, tmp_path / "stranger")
    plans = json.loads((model / "plans.json").read_text())
    if key == "plans_name":
        plans[key] = "/../../../victim"
    else:
        import torch

        name = "/../../../victim"
        plans["configurations"] = {name: plans["configurations"]["3d_fullres"]}
        content = torch.load(model / "fold_0/checkpoint_final.pth", weights_only=True)
        content["init_args"]["configuration"] = name
        torch.save(content, model / "fold_0/checkpoint_final.pth")
    (model / "plans.json").write_text(json.dumps(plans))
    for victim in ("victim", "victim__3d_fullres"):
        (nnunet_folders / victim).mkdir()
        (nnunet_folders / victim / "precious").touch()
    before = _files(tmp_path)
    assert _run("import_weights", model, "-d", "Dataset101_X", "--overwrite") == 2
    error = capsys.readouterr().err
    assert "/../../../victim" in error
    assert error.count("\n") == 1
    assert _files(tmp_path) == before


def test_predictions_stay_in_the_output_folder(softmax_model, inputs, tmp_path, capsys):
    model = shutil.copytree(softmax_model, tmp_path / "stranger")
    dataset_json = json.loads((model / "dataset.json").read_text())
    (model / "dataset.json").write_text(json.dumps({**dataset_json, "file_ending": "/../../x.nii.gz"}))
    before = _files(tmp_path)
    arguments = ["-i", tmp_path / "maps", "-o", tmp_path / "out", "-m", model, "-f", 0, "-device", "cpu"]
    assert _run("predict", *arguments, *ONE_PROCESS["predict"]) == 2
    assert "as 'file_ending' in" in capsys.readouterr().err
    assert _files(tmp_path) == before


@pytest.mark.usefixtures("threads_instead_of_processes")
@pytest.mark.parametrize(
    "change",
    [
        {"dataset_name": HOSTILE},
        {"plans_name": HOSTILE},
        {"data_identifier": HOSTILE},
        {"next_stage": [HOSTILE]},
        {"previous_stage": HOSTILE},
    ],
    ids=str,
)
@pytest.mark.parametrize("command", ["train", "finetune"])
def test_plans_of_strangers_write_and_delete_nothing_elsewhere(
    command, change, tiny_dataset, softmax_model, tmp_path, capsys
):
    folder = Path(os.environ["nnUNet_preprocessed"]) / tiny_dataset
    plans = json.loads((folder / "nnUNetPlans.json").read_text())
    entry = plans["configurations"]["3d_fullres"]
    (entry if set(change) & {"data_identifier", "next_stage", "previous_stage"} else plans).update(change)
    (folder / "nnUNetPlans.json").write_text(json.dumps(plans))
    (tmp_path / "victim" / "x").mkdir(parents=True)
    (tmp_path / "victim" / "x" / "precious").touch()
    before = _files(tmp_path)
    weights = ["-pretrained_weights", softmax_model] if command == "finetune" else []
    short = ["--num_epochs", 1, "--iterations_per_epoch", 1, "--val_iterations_per_epoch", 1, "--num_workers", 0]
    trainer = ["-tr", "STUNetTrainer_small", "-p", "nnUNetPlans"]
    assert _run(command, 7, "3d_fullres", 0, "-device", "cpu", *trainer, *weights, *short) == 2
    assert next(iter(change)) in capsys.readouterr().err
    assert _files(tmp_path) == before


@pytest.mark.parametrize("hostile", ["configuration", "data_identifier"])
def test_a_template_of_strangers_is_refused(hostile, make_raw_dataset, tiny_case, nnunet_folders, tmp_path, capsys):
    from nnunetv2_ext.experiment_planning.templates import load_template

    make_raw_dataset("Dataset003_Liver", LABELS, {"a": tiny_case(1, [1, 2])})
    template = load_template("stunet_ct")
    if hostile == "configuration":
        template["configurations"]["/../victim"] = template["configurations"]["3d_fullres"]
    else:
        template["configurations"]["more"] = {"inherits_from": "3d_fullres", "data_identifier": "/../victim"}
    (tmp_path / "template.json").write_text(json.dumps(template))
    before = _files(tmp_path)
    assert _run("plan", "-d", 3, "-t", tmp_path / "template.json", "-np", 1) == 2
    assert "/../victim" in capsys.readouterr().err
    assert _files(tmp_path) == before


CONTROL = "li\x1b[2Jver\0"


@pytest.mark.parametrize(
    "command", ["remap_labels", "convert_dataset", "merge_datasets", "evaluate", "predict", "import_weights"]
)
def test_class_names_that_no_header_keeps_are_refused(command, inputs, softmax_model, tmp_path, nnunet_folders, capsys):
    labels = {"background": 0, CONTROL: 1, "spleen": 2}
    (tmp_path / "order.json").write_text(json.dumps({"labels": {CONTROL: 1, "spleen": 2}}))
    model = shutil.copytree(softmax_model, tmp_path / "stranger")
    for file in (
        tmp_path / "dataset.json",
        nnunet_folders / "nnUNet_raw/Dataset003_Liver/dataset.json",
        model / "dataset.json",
    ):
        content = json.loads(file.read_text())
        extra = {"aorta": 3} if file.parent == model else {}
        file.write_text(json.dumps({**content, "labels": {**labels, **extra}}))
    arguments = {
        **{name: of_it for name, (_, of_it) in inputs.items()},
        "import_weights": [model, "-d", "Dataset101_X"],
    }[command]
    arguments = [model if argument == softmax_model else argument for argument in arguments]
    before = _files(tmp_path)
    assert _run(command, *arguments) == 2
    error = capsys.readouterr().err
    assert "Expected names of printable characters" in error
    assert "\\x1b[2J" in error
    assert "\x1b[2J" not in error
    assert _files(tmp_path) == before


@pytest.mark.parametrize("command", ["remap_labels", "predict", "evaluate"])
def test_names_of_files_move_no_cursor(command, inputs, capsys):
    folder, arguments = inputs[command]
    (folder / "d\x1b[2J.nii.gz").write_bytes(b"no image")
    if command == "evaluate":
        (folder.parent / "labelsTr" / "d\x1b[2J.nii.gz").write_bytes(b"no image")
    assert _run(command, *arguments, *ONE_PROCESS.get(command, ["-np", 1])) == 1
    shown = capsys.readouterr()
    assert "d\\x1b[2J" in shown.out + shown.err
    assert "\x1b[2J" not in shown.out + shown.err


@pytest.mark.parametrize(("reference", "prediction"), [("x_0000", "x"), ("x", "x_0000")])
def test_an_image_called_like_its_label_map_is_evaluated(reference, prediction, inputs, tmp_path, capsys):
    _map(tmp_path / "labelsTr" / f"{reference}.nii.gz", 9)
    _map(tmp_path / "maps" / f"{prediction}.nii.gz", 9)
    arguments = inputs["evaluate"][1]
    assert _run("evaluate", *arguments, "-np", 1) == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert len(summary["metric_per_case"]) == 4
    assert summary["foreground_mean"]["Dice"] == 1
    # What is a case of its own stands for no other.
    _map(tmp_path / "labelsTr" / f"{prediction}.nii.gz", 9)
    assert _run("evaluate", *arguments, "-np", 1, "--overwrite") == 1
    assert f"Expected a prediction {reference}.nii.gz" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["train", "finetune"])
@pytest.mark.parametrize("trainer", ["nnUNetTrainer", "FineTuneTrainer"])
def test_fewer_cases_than_folds_are_counted_before_the_training(
    command, trainer, make_raw_dataset, tiny_case, softmax_model, nnunet_folders, tmp_path, monkeypatch, capsys
):
    raw = make_raw_dataset("Dataset003_Liver", LABELS, {case: tiny_case(ord(case), [1, 2]) for case in "abc"})
    folder = nnunet_folders / "nnUNet_preprocessed" / "Dataset003_Liver"
    (folder / "tiny").mkdir(parents=True)
    plans = (softmax_model / "plans.json").read_text().replace("Dataset001_Tiny", "Dataset003_Liver")
    (folder / "nnUNetPlans.json").write_text(plans)
    shutil.copy(raw / "dataset.json", folder / "dataset.json")
    for case in "abc":
        (folder / "tiny" / f"{case}.pkl").touch()
        (folder / "tiny" / f"{case}.b2nd").touch()
    weights = ["-pretrained_weights", softmax_model] if command == "finetune" else []
    arguments = [3, "3d_fullres", 0, "-device", "cpu", "-tr", trainer, "-p", "nnUNetPlans", *weights]
    before = _files(tmp_path)
    assert _run(command, *arguments) == 2
    assert "3 cases cannot make 5 folds" in capsys.readouterr().err
    assert _files(tmp_path) == before
