"""nnUNetv2_ext_import_weights: arguments, the printed command, exit codes."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2_ext.cli.import_weights import main

LABELS = {"background": 0, "liver": 1, "spleen": 2}


@pytest.fixture
def bare_file(write_v1, published_names, tiny_stunet):
    return write_v1(published_names(tiny_stunet()), name="tiny_ep4k.model")


def test_it_prints_the_stock_command_that_runs_the_model(bare_file, nnunet_folders, tmp_path, capsys):
    (tmp_path / "dataset.json").write_text(json.dumps({"channel_names": {"0": "CT"}, "labels": LABELS}))
    code = main([str(bare_file), "-d", "Dataset101_Tiny", "-f", "all", "--labels", str(tmp_path / "dataset.json")])
    assert code == 0
    assert (
        "nnUNetv2_predict -i INPUT_FOLDER -o OUTPUT_FOLDER -d Dataset101_Tiny -tr nnUNetTrainer "
        "-p stunet_totalsegmentator -c 3d_fullres -f all"
    ) in capsys.readouterr().out
    folder = nnunet_folders / "nnUNet_results/Dataset101_Tiny/nnUNetTrainer__stunet_totalsegmentator__3d_fullres"
    assert (folder / "fold_all" / "checkpoint_final.pth").is_file()
    assert json.loads((folder / "dataset.json").read_text())["labels"] == LABELS


def test_results_folder_and_plan_template_can_be_chosen(bare_file, tmp_path, capsys):
    arguments = [str(bare_file), "-d", "Dataset101_Tiny", "-results", str(tmp_path / "models")]
    assert main([*arguments, "--plans", "multitalent_stunet"]) == 0
    plans = tmp_path / "models/Dataset101_Tiny/nnUNetTrainer__multitalent_stunet__3d_fullres/plans.json"
    architecture = json.loads(plans.read_text())["configurations"]["3d_fullres"]["architecture"]
    assert architecture["arch_kwargs"]["features_per_stage"] == [4, 6, 8]
    assert f"export nnUNet_results={tmp_path / 'models'}" in capsys.readouterr().out


def test_how_the_images_of_the_training_lay_can_be_said(bare_file, tmp_path, capsys):
    arguments = [str(bare_file), "-d", "Dataset101_Tiny", "-results", str(tmp_path / "models")]
    assert main([*arguments, "--orientation", "ras"]) == 0
    (file,) = tmp_path.glob("models/*/*/dataset.json")
    assert json.loads(file.read_text())["image_orientation"] == "RAS"
    with pytest.raises(SystemExit, match="2"):
        main([*arguments, "--orientation", "RAA"])
    assert "expected what x, y and z run towards" in capsys.readouterr().err


@pytest.mark.parametrize("of", ["stunet", "totalsegmentator", "others"])
def test_how_the_images_of_totalsegmentator_lay_is_known(
    of, write_v1, published_names, tiny_stunet, softmax_model, tmp_path
):
    if of == "stunet":
        source = write_v1(published_names(tiny_stunet(105)), name="tiny_ep4k.model")
    else:
        source = shutil.copytree(softmax_model, tmp_path / "model")
        plans = json.loads((source / "plans.json").read_text())
        name = "TotalSegmentator_part1_organs_1559subj" if of == "totalsegmentator" else "Organs"
        (source / "plans.json").write_text(json.dumps({**plans, "dataset_name": f"Dataset291_{name}"}))
    assert main([str(source), "-d", "Dataset101_Tiny", "-results", str(tmp_path / "models")]) == 0
    (file,) = tmp_path.glob("models/*/*/dataset.json")
    provenance = json.loads((file.parent / "provenance.json").read_text())["folds"]["0"]
    found = [content.get("image_orientation") for content in (json.loads(file.read_text()), provenance)]
    assert found == ([None, None] if of == "others" else ["RAS", "RAS"])


def test_a_model_of_nnunet_v1_that_saw_no_ct_predicts(
    write_v1, published_names, tiny_stunet, plans_v1, nnunet_folders, tmp_path
):
    """Its plans hold no statistics of intensities, which nnU-Net v2 hands to every normaliser."""
    from nnunetv2_ext.cli import predict

    plans = plans_v1([[1, 2, 2], [2, 2, 2]], [16, 16, 16], [1.0, 1.0, 1.0])
    plans["dataset_properties"] = {"all_sizes": [(16, 16, 16)]}
    file = write_v1(published_names(tiny_stunet()), name="weights/mr.model", plans=plans, stage=0)
    assert main([str(file), "-d", "Dataset101_MR"]) == 0
    (model,) = (nnunet_folders / "nnUNet_results" / "Dataset101_MR").iterdir()
    images = tmp_path / "images"
    images.mkdir()
    image = sitk.GetImageFromArray(np.random.default_rng(0).normal(0, 1, (16, 16, 16)).astype(np.float32))
    sitk.WriteImage(image, str(images / "case_0000.nii.gz"))
    words = ["-i", str(images), "-o", str(tmp_path / "out"), "-m", str(model), "-f", "0", "-device", "cpu", "--quiet"]
    assert predict.main(words) == 0
    assert (tmp_path / "out" / "case.nii.gz").is_file()


def documented_commands():
    """The import commands of docs/checkpoints.md, and the line that the first of them is said to print."""
    text = (Path(__file__).resolve().parents[2] / "docs" / "checkpoints.md").read_text(encoding="utf-8")
    lines = text.splitlines()
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("nnUNetv2_ext_import_weights ")]
    (printed,) = [line for line in lines if line.startswith("nnUNetv2_predict ")]
    return commands, printed


def test_the_documented_commands_work(write_v1, published_names, tiny_stunet, nnunet_folders, monkeypatch, capsys):
    from nnunetv2_ext.architectures.stunet import PUBLISHED_STRIDES, STUNET_SIZES
    from nnunetv2_ext.resources import resource_folder

    network = tiny_stunet(105, **STUNET_SIZES["S"].arguments, strides=PUBLISHED_STRIDES)
    folder = write_v1(published_names(network), name="small_ep4k.model").parent
    monkeypatch.chdir(folder)
    (first, second), printed = documented_commands()
    assert main(first) == 0
    assert printed in capsys.readouterr().out
    model = nnunet_folders / "nnUNet_results/Dataset101_TotalSegmentator"
    dataset_json = model / "STUNetTrainer_small__stunet_totalsegmentator__3d_fullres" / "dataset.json"
    labels = json.loads(dataset_json.read_text())["labels"]
    assert len(labels) == 105
    assert labels["adrenal_gland_left"] == 1

    write_v1(published_names(tiny_stunet()), name="my_network.model")
    shutil.copy(resource_folder("plans") / "stunet_totalsegmentator.json", folder / "my_plans.json")
    (folder / "my_dataset.json").write_text(json.dumps({"channel_names": {"0": "CT"}, "labels": LABELS}))
    assert main(second) == 0
    assert "-p my_plans -c 3d_fullres -f 3" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["-f", "x"], "'all' as fold"),
        (["--plans", "no_such_template"], "no_such_template"),
        (["--labels", "no_such_order"], "no_such_order"),
        (["--labels", "totalsegmentator_v2"], "118 outputs"),
        (["-d", "Tiny"], "Dataset101"),
        (["-c", "2d"], "2d"),
        (["-tr", "STUNetTrainer_smal"], "similar: STUNetTrainer_small"),
    ],
)
def test_wrong_arguments_end_with_one_sentence_and_write_nothing(bare_file, tmp_path, capsys, change, words):
    results = tmp_path / "models"
    assert main([str(bare_file), "-d", "Dataset101_Tiny", "-results", str(results), *change]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error
    assert not results.exists()


def test_existing_models_and_missing_variables_are_refused(bare_file, tmp_path, capsys, monkeypatch):
    arguments = [str(bare_file), "-d", "Dataset101_Tiny", "-results", str(tmp_path / "models")]
    assert main(arguments) == 0
    assert main(arguments) == 2
    assert "exists already" in capsys.readouterr().err
    assert main([*arguments, "--overwrite"]) == 0
    monkeypatch.delenv("nnUNet_results", raising=False)
    assert main(arguments[:3]) == 2
    assert "nnUNet_results is not set" in capsys.readouterr().err


def test_damaged_files_are_refused(bare_file, tmp_path, capsys):
    bare_file.write_bytes(bare_file.read_bytes()[:1000])
    assert main([str(bare_file), "-d", "Dataset101_Tiny", "-results", str(tmp_path / "models")]) == 2
    assert f"{bare_file} is truncated or is not a checkpoint" in capsys.readouterr().err
    assert not (tmp_path / "models").exists()


def test_results_folders_that_cannot_be_written_are_refused(bare_file, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    command = [str(bare_file), "-d", "Dataset101_Tiny", "--plans", "stunet_totalsegmentator"]
    assert main([*command, "-results", str(tmp_path / "file")]) == 2
    assert "Expected a folder for the results" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "mine"
