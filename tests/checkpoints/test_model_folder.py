"""Model folders written from checkpoints, used by stock nnU-Net."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

from nnunetv2_ext.checkpoints import read_checkpoint
from nnunetv2_ext.checkpoints.dataset_json import labels_of, with_labels
from nnunetv2_ext.checkpoints.model_folder import write_model_folder
from nnunetv2_ext.labels.channels import channel_names
from nnunetv2_ext.labels.label_order import LabelOrder
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.files import sha256_of

DATASET = "Dataset101_Tiny"
LABELS = {"background": 0, "liver": 1, "spleen": 2}
POOL = [[1, 2, 2], [2, 2, 2]]


@pytest.fixture
def v1_file(write_v1, published_names, tiny_stunet, plans_v1):
    """A tiny STU-Net of unpublished size with the pickle beside it."""
    return write_v1(published_names(tiny_stunet()), plans=plans_v1(POOL, [8, 16, 16], [1.5, 1.5, 1.5]))


@pytest.mark.slow
def test_stock_predictor_gives_the_logits_of_the_reference_network(v1_file, tiny_stunet, tmp_path):
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    folder = write_model_folder(read_checkpoint(v1_file, labels=LABELS), tmp_path / "results", DATASET, fold=2)
    # The Gaussian's corners underflow in the half precision that nnU-Net accumulates in.
    predictor = nnUNetPredictor(use_mirroring=False, use_gaussian=False, device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(folder), use_folds=(2,))
    image = np.random.default_rng(0).normal(40, 100, (1, 8, 16, 16)).astype(np.float32)
    normalised = torch.from_numpy((image - image.mean()) / image.std())
    with torch.no_grad():
        expected = tiny_stunet()(normalised[None])[0]
    logits = predictor.predict_logits_from_preprocessed_data(normalised)
    torch.testing.assert_close(logits.float(), expected, atol=2e-3, rtol=2e-3)
    segmentation = predictor.predict_single_npy_array(image, {"spacing": [1.5, 1.5, 1.5]})
    assert np.mean(segmentation == expected.argmax(0).numpy()) > 0.999
    assert len(np.unique(segmentation)) > 1


def test_the_folder_holds_all_that_stock_nnunet_reads(v1_file, tmp_path):
    checkpoint = read_checkpoint(v1_file, labels=LABELS)
    folder = write_model_folder(checkpoint, tmp_path / "results", DATASET, source="https://example.org/weights")
    assert folder == tmp_path / "results" / DATASET / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    assert {path.name for path in folder.iterdir()} == {
        "plans.json",
        "dataset.json",
        "dataset_fingerprint.json",
        "provenance.json",
        "fold_0",
    }
    content = torch.load(folder / "fold_0" / "checkpoint_final.pth", weights_only=True)
    assert content["trainer_name"] == "nnUNetTrainer"
    assert content["inference_allowed_mirroring_axes"] == (0, 1, 2)
    plans = json.loads((folder / "plans.json").read_text())
    assert content["init_args"]["plans"] == plans
    assert plans["dataset_name"] == DATASET
    architecture = plans["configurations"]["3d_fullres"]["architecture"]
    assert architecture["network_class_name"] == "nnunetv2_ext.architectures.stunet.STUNet"
    assert architecture["arch_kwargs"]["strides"] == [[1, 1, 1], *POOL]
    assert json.loads((folder / "dataset.json").read_text())["labels"] == LABELS
    record = json.loads((folder / "provenance.json").read_text())["folds"]["0"]
    assert record["sha256"] == sha256_of(v1_file)
    assert record["source"] == "https://example.org/weights"
    assert [path.name for path in folder.parent.iterdir()] == [folder.name], "nothing temporary is left"


def test_what_was_imported_reads_back_as_the_same_network(v1_file, tmp_path, tiny_stunet):
    folder = write_model_folder(read_checkpoint(v1_file, labels=LABELS), tmp_path / "results", DATASET)
    again = read_checkpoint(folder)
    assert again.class_names == tuple(LABELS)
    image = torch.randn(1, 1, 4, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(again.build_network()(image), tiny_stunet()(image))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["multitalent_unet_v1", "multitalent_resenc_v1"])
def test_multitalent_networks_become_collections_of_named_regions(reference_network, write_v1, tmp_path, name):
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    from nnunetv2_ext.training.trainers import multitalent

    reference = reference_network(name)
    heads = ("seg_outputs", "decoder.deep_supervision_outputs")
    state = {
        key: value.repeat(10, *(1,) * (value.ndim - 1))[:47] if key.startswith(heads) else value
        for key, value in reference.state.items()
    }
    checkpoint = read_checkpoint(write_v1(state))
    folder = write_model_folder(checkpoint, tmp_path / "results", "Dataset102_MultiTalent")
    dataset_json = json.loads((folder / "dataset.json").read_text())
    assert dataset_json["regions_class_order"] == list(range(1, 48))
    plans = json.loads((folder / "plans.json").read_text())
    configuration = plans["configurations"]["3d_fullres"]
    assert configuration["normalization_schemes"] == ["CTNormalization"]
    assert plans["foreground_intensity_properties_per_channel"]["0"]["percentile_99_5"] == 275.0
    assert configuration["patch_size"] == [96, 192, 192]
    content = torch.load(folder / "fold_0" / "checkpoint_final.pth", weights_only=True)
    manager = PlansManager(plans)
    trainer = getattr(multitalent, content["trainer_name"])
    assert folder.name.startswith(f"MultiTalentTrainer_{name.split('_')[1]}__")
    network = trainer.build_network_architecture(manager, manager.get_configuration("3d_fullres"), 1, 47, True).eval()
    network.load_state_dict(content["network_weights"])
    with torch.no_grad():
        outputs = network(reference.image)
    reference.assert_outputs([level[:, :5] for level in outputs])


def test_folds_join_a_model_of_the_same_plans_and_labels_only(v1_file, tmp_path):
    checkpoint = read_checkpoint(v1_file, labels=LABELS)
    folder = write_model_folder(checkpoint, tmp_path, DATASET, fold=0)
    assert write_model_folder(checkpoint, tmp_path, DATASET, fold=3) == folder
    assert set(json.loads((folder / "provenance.json").read_text())["folds"]) == {"0", "3"}
    with pytest.raises(UserError, match="fold_3 exists already"):
        write_model_folder(checkpoint, tmp_path, DATASET, fold=3)
    other = read_checkpoint(v1_file, labels={"background": 0, "a": 1, "b": 2})
    with pytest.raises(UserError, match="another model"):
        write_model_folder(other, tmp_path, DATASET, fold=1)
    assert {path.name for path in folder.glob("fold_*")} == {"fold_0", "fold_3"}
    write_model_folder(other, tmp_path, DATASET, fold=1, overwrite=True)
    assert {path.name for path in folder.glob("fold_*")} == {"fold_1"}
    assert "a" in json.loads((folder / "dataset.json").read_text())["labels"]


def test_a_failed_write_leaves_nothing(v1_file, tmp_path, monkeypatch):
    checkpoint = read_checkpoint(v1_file, labels=LABELS)

    def full_disk(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_model_folder(checkpoint, tmp_path / "results", DATASET)
    assert list((tmp_path / "results" / DATASET).iterdir()) == []


def test_published_plans_fill_in_where_the_pickle_is_missing(v1_file, write_v1, published_names, tiny_stunet, tmp_path):
    path = write_v1(published_names(tiny_stunet()), name="bare.model")
    folder = write_model_folder(read_checkpoint(path), tmp_path / "results", DATASET)
    assert folder.name == "nnUNetTrainer__stunet_totalsegmentator__3d_fullres"
    plans = json.loads((folder / "plans.json").read_text())
    configuration = plans["configurations"]["3d_fullres"]
    assert configuration["patch_size"] == [128, 128, 128]
    assert configuration["architecture"]["arch_kwargs"]["features_per_stage"] == [4, 6, 8]
    assert "description" not in plans
    labels = json.loads((folder / "dataset.json").read_text())["labels"]
    assert labels == {"background": 0, "class_1": 1, "class_2": 2}


def test_unknown_plans_and_unfit_labels_are_refused(v1_file, tmp_path, reference_network, write_v1):
    unknown = read_checkpoint(write_v1(reference_network("multitalent_unet_v1").state, name="unet.model"))
    with pytest.raises(UserError, match="--plans"):
        write_model_folder(unknown, tmp_path / "results", DATASET)
    gap = read_checkpoint(v1_file, labels={"background": 0, "liver": 1, "spleen": 5})
    with pytest.raises(UserError, match="consecutive"):
        write_model_folder(gap, tmp_path / "results", DATASET)
    checkpoint = read_checkpoint(v1_file, labels=LABELS)
    with pytest.raises(UserError, match="Dataset101"):
        write_model_folder(checkpoint, tmp_path / "results", "../escape")
    assert checkpoint.plans is not None
    checkpoint.plans["configurations"]["3d_fullres"]["normalization_schemes"] = ["CTNormalization"]
    checkpoint.plans["foreground_intensity_properties_per_channel"] = {}
    with pytest.raises(UserError, match="intensity statistics"):
        write_model_folder(checkpoint, tmp_path / "results", DATASET)
    assert not (tmp_path / "results").exists()


def test_regions_paint_the_integer_that_is_most_their_own():
    labels = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": [3, 3], "other": [4, 4]}
    assert with_labels({}, labels)["regions_class_order"] == [1, 2, 3, 4]
    assert "regions_class_order" not in with_labels({"regions_class_order": [1]}, LABELS)
    order = LabelOrder("x", {"organ": (1, 2), "tumour": 2})
    assert labels_of(order) == {"background": 0, "organ": [1, 2], "tumour": [2, 2]}
    assert channel_names(labels_of(order)) == ("organ", "tumour")
    assert channel_names(labels_of(LabelOrder("x", {"b": 2, "a": 1}, ignore_label=3))) == ("background", "a", "b")


def test_a_trained_v2_folder_can_be_imported_under_another_name(v1_file, tmp_path):
    folder = write_model_folder(read_checkpoint(v1_file, labels=LABELS), tmp_path / "results", DATASET)
    moved = tmp_path / "downloaded"
    shutil.copytree(folder, moved)
    copy = write_model_folder(read_checkpoint(moved, fold=0), tmp_path / "results", "Dataset103_Copy", fold="all")
    assert (copy / "fold_all" / "checkpoint_final.pth").is_file()


def test_the_id_of_another_dataset_is_refused(v1_file, nnunet_folders):
    """Stock nnU-Net could not tell the two apart by their ID any more."""
    (nnunet_folders / "nnUNet_raw" / "Dataset101_Mine").mkdir()
    checkpoint = read_checkpoint(v1_file)
    results = nnunet_folders / "nnUNet_results"
    with pytest.raises(UserError, match="101 is used by Dataset101_Mine"):
        write_model_folder(checkpoint, results, "Dataset101_Theirs")
    assert list(results.iterdir()) == []
    write_model_folder(checkpoint, results, "Dataset101_Mine")


def test_stock_nnunet_exports_an_imported_model_to_a_zip(v1_file, nnunet_folders, monkeypatch):
    import zipfile

    from nnunetv2.model_sharing import model_export
    from nnunetv2.utilities import dataset_name_id_conversion, file_path_utilities

    results = nnunet_folders / "nnUNet_results"
    for module in (model_export, dataset_name_id_conversion, file_path_utilities):
        monkeypatch.setattr(module, "nnUNet_results", str(results), raising=False)
    folder = write_model_folder(read_checkpoint(v1_file, labels=LABELS), results, DATASET)
    target = nnunet_folders / "model.zip"
    model_export.export_pretrained_model(DATASET, str(target), ("3d_fullres",), "nnUNetTrainer", "nnUNetPlans", (0,))
    with zipfile.ZipFile(target) as archive:
        names = set(archive.namelist())
    inside = f"{DATASET}/{folder.name}"
    assert {f"{inside}/fold_0/checkpoint_final.pth", f"{inside}/plans.json", f"{inside}/dataset.json"} <= names
    assert f"{inside}/fold_0/progress.png" in names
