"""What version 0.1.0 wrote goes on working; tests/data/v0_1_0/README.md says what is there and how it was written."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

FROZEN = Path(__file__).parent / "data" / "v0_1_0"
MODELS = sorted((FROZEN / "results").glob("*/*"))
PLANS = ["stunet_ct", "multitalent_resenc", "multitalent_unet", "salt", "spleen_ct_unet", "wholebody_ct_segresnet_3mm"]
COLLECTION = "Dataset003_Collection"


@pytest.fixture
def frozen(tmp_path, monkeypatch):
    """A copy of all frozen files, which the tests may change, with nnU-Net's folders pointing into it."""
    folder = tmp_path / "v0_1_0"
    shutil.copytree(FROZEN, folder)
    for kind in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{kind}", str(folder / kind))
    return folder


def voxels(file):
    return sitk.GetArrayFromImage(sitk.ReadImage(str(file)))


def assert_same_images(found, expected):
    """The same files with the same voxels on the same grid."""
    for part in ("imagesTr", "labelsTr"):
        names = sorted(file.name for file in (expected / part).iterdir())
        assert sorted(file.name for file in (found / part).iterdir()) == names
        for name in names:
            first, second = (sitk.ReadImage(str(folder / part / name)) for folder in (found, expected))
            np.testing.assert_array_equal(sitk.GetArrayViewFromImage(first), sitk.GetArrayViewFromImage(second))
            assert first.GetSpacing() == pytest.approx(second.GetSpacing())
            assert first.GetOrigin() == pytest.approx(second.GetOrigin())


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.parent.name)
def test_model_folders_predict_as_they_did(model, tmp_path):
    from nnunetv2_ext.cli.predict import main

    if "Bundle" in model.parent.name:
        pytest.importorskip("monai", reason="the extra 'monai' is not installed")
    options = ["-f", "0", "-device", "cpu", "--quiet"]
    assert main(["-i", str(FROZEN / "scan"), "-o", str(tmp_path), "-m", str(model), *options]) == 0
    expected = voxels(FROZEN / "predictions" / f"{model.parent.name}.nii.gz")
    assert len(np.unique(expected)) > 1
    # Sums of floating-point numbers differ between processors, and with them a voxel where two classes are equal.
    assert (voxels(tmp_path / "case.nii.gz") != expected).mean() < 1e-3


@pytest.mark.parametrize(
    ("file", "checkpoint_format", "model"),
    [
        ("stunet_v1.model", "stunet_v1", "Dataset901_Published/nnUNetTrainer__nnUNetPlans__3d_fullres"),
        ("trained.safetensors", "nnunet_v2", "Dataset001_Left/nnUNetTrainer__stunet_ct__3d_fullres"),
    ],
)
def test_checkpoints_hold_the_weights_of_the_model_folders(file, checkpoint_format, model):
    import torch

    from nnunetv2_ext.checkpoints import read_checkpoint

    checkpoint, imported = read_checkpoint(FROZEN / "checkpoints" / file), read_checkpoint(FROZEN / "results" / model)
    assert checkpoint.format == checkpoint_format
    image = torch.randn(1, 1, 16, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(checkpoint.build_network()(image), imported.build_network()(image))


def test_a_bundle_is_imported_as_it_was(frozen, monkeypatch):
    import torch

    pytest.importorskip("monai", reason="the extra 'monai' is not installed")
    from nnunetv2_ext.cli.import_weights import main

    monkeypatch.setenv("nnUNet_results", str(frozen / "again"))
    assert main([str(frozen / "checkpoints" / "model.pt"), "-d", "Dataset902_Bundle", "--quiet"]) == 0
    (found,) = (frozen / "again" / "Dataset902_Bundle").iterdir()
    expected = frozen / "results" / "Dataset902_Bundle" / found.name
    weights = [
        torch.load(folder / "fold_0" / "checkpoint_final.pth")["network_weights"] for folder in (found, expected)
    ]
    torch.testing.assert_close(*map(dict, weights), rtol=0, atol=0)
    profiles = [json.loads((folder / "preprocessing_profile.json").read_text()) for folder in (found, expected)]
    assert profiles[0] == profiles[1]


@pytest.mark.parametrize("name", PLANS)
def test_plans_serve_as_a_template(name, frozen):
    from nnunetv2_ext.cli.plan import main

    folder = frozen / "preprocessed" / "Dataset001_Left"
    assert main(["-d", "1", "-t", str(folder / f"{name}.json"), "--name", "again", "--quiet"]) == 0
    before, again = (
        {key: entry.get("architecture") for key, entry in json.loads(file.read_text())["configurations"].items()}
        for file in (folder / f"{name}.json", folder / "again.json")
    )
    assert again == before


def test_a_collection_is_planned_and_merged_again(frozen):
    from nnunetv2_ext.cli.merge_datasets import main as merge
    from nnunetv2_ext.cli.plan import main as plan

    template = frozen / "preprocessed" / COLLECTION / "nnUNetPlans.json"
    assert plan(["-d", "3", "-t", str(template), "--name", "again", "--quiet"]) == 0
    assert merge(["3", "-d", "8", "-n", "Again", "--copy", "-np", "1", "--quiet"]) == 0
    before, again = (frozen / "raw" / name for name in (COLLECTION, "Dataset008_Again"))
    assert_same_images(again, before)
    sections = ("labels", "regions_class_order", "partial_labels")
    old, new = (json.loads((folder / "dataset.json").read_text()) for folder in (before, again))
    assert {name: new[name] for name in sections} == {name: old[name] for name in sections}


def test_an_interrupted_merge_is_run_again(frozen):
    from nnunetv2_ext.cli.merge_datasets import main

    assert any((frozen / "raw").glob(".Dataset007_Merge.*.tmp/labelsTr/*"))
    assert main(["Left=1", "Right=2", "-d", "7", "-n", "Merge", "--copy", "-np", "1", "--quiet"]) == 0
    assert_same_images(frozen / "raw" / "Dataset007_Merge", FROZEN / "raw" / COLLECTION)


def test_an_interrupted_conversion_is_refused_with_what_mends_it(frozen, capsys):
    from nnunetv2_ext.cli.convert_dataset import main

    source = frozen / "conversion" / "source"
    folder = frozen / "raw" / "Dataset006_Interrupted"
    (frozen / "conversion" / folder.name).rename(folder)
    for record in (folder / ".conversion").glob("*.json"):
        record.write_text(record.read_text(encoding="utf-8").replace("SOURCE", str(source)), encoding="utf-8")
    before = sorted(folder.rglob("*"))
    arguments = ["masks", "-i", str(source), "-d", "6", "-n", "Interrupted", "-np", "1", "--copy_images"]
    assert main(arguments) == 2
    sentence = capsys.readouterr().err
    assert "begun by an earlier version, which did not note what the integers of its label maps mean" in sentence
    assert "pass --overwrite" in sentence
    assert sorted(folder.rglob("*")) == before
    assert main([*arguments, "--overwrite"]) == 0
    finished = FROZEN / "conversion" / "Dataset005_Finished"
    assert_same_images(folder, finished)
    new, old = (json.loads((place / "dataset.json").read_text(encoding="utf-8")) for place in (folder, finished))
    assert {name: new[name] for name in old if name not in ("name", "converted_by")} == {
        name: old[name] for name in old if name not in ("name", "converted_by")
    }


@pytest.mark.slow
def test_an_interrupted_training_goes_on(frozen, threads_instead_of_processes, monkeypatch):
    import torch
    from nnunetv2.experiment_planning.plan_and_preprocess_api import preprocess

    from nnunetv2_ext.cli.train import main

    monkeypatch.setenv("nnUNet_n_proc_DA", os.environ["nnUNet_n_proc_DA"])
    preprocess([3], configurations=["3d_fullres"], num_processes=[1])
    fold = frozen / "results" / COLLECTION / "MultiTalentTrainer_unet__nnUNetPlans__3d_fullres" / "fold_1"
    before = torch.load(fold / "checkpoint_latest.pth", weights_only=True)
    assert before["current_epoch"] == 1
    options = ["--num_epochs", "2", "--iterations_per_epoch", "1", "--val_iterations_per_epoch", "1"]
    arguments = ["3", "3d_fullres", "1", "-tr", "MultiTalentTrainer_unet", "--c", "-device", "cpu", *options]
    assert main([*arguments, "--batch_size", "2", "--seed", "1", "--num_workers", "0"]) == 0
    after = torch.load(fold / "checkpoint_final.pth", weights_only=True)
    assert after["current_epoch"] == 2
    # The first epoch is that of the checkpoint.
    assert after["logging"]["train_losses"][:1] == before["logging"]["train_losses"]
