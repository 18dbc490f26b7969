"""MultiTalent's models predict what nnU-Net predicts with the network of each head."""

from __future__ import annotations

import json

import numpy as np
import pytest
import SimpleITK
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from nnunetv2_ext.cli import import_weights
from nnunetv2_ext.cli.predict import main
from nnunetv2_ext.inference import Predictor
from nnunetv2_ext.inference.multi_head.predicting import SegmenterOfPasses
from nnunetv2_ext.utilities.errors import UserError


def _import(model, folder, results, **how):
    """The published folder, imported by the command."""
    published = model.write(folder, **how)
    flags = [str(published), "-d", "Dataset617_MultiTalent", "-results", str(results), "-f", "all", "--quiet"]
    assert import_weights.main(flags) == 0
    (imported,) = (results / "Dataset617_MultiTalent").iterdir()
    return imported


def _labels(file):
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(file)))


def _stock(model, head, plans, images, folder):
    """The label map of nnU-Net's own predictor with the network of one head."""
    predictor = nnUNetPredictor(0.5, True, True, False, torch.device("cpu"), allow_tqdm=False)
    stock = model.write_stock(folder / f"stock_{head}", head, plans)
    predictor.initialize_from_trained_model_folder(str(stock), (0,))
    (folder / head).mkdir()
    predictor.predict_from_files_sequential(str(images), str(folder / head))
    return _labels(folder / head / "case.nii.gz")


@pytest.fixture
def images(tmp_path, make_ct):
    """A case of one channel whose axes are not those of the plans' reader."""
    folder = tmp_path / "images"
    folder.mkdir()
    image = make_ct(size=(30, 24, 17), direction=(0, 1, 0, -1, 0, 0, 0, 0, 1))
    SimpleITK.WriteImage(image, str(folder / "case_0000.nii.gz"))
    return folder


def _run(*arguments):
    return main([str(argument) for argument in ("--quiet", "-device", "cpu", *arguments)])


@pytest.mark.parametrize("normalizations", ["equal", "different"])
def test_every_source_gets_the_map_that_nnunet_predicts(published_multitalent, images, tmp_path, normalizations):
    model = published_multitalent("shared stem")
    plans = {head: model.head_plans(head) for head in model.heads}
    if normalizations == "different":
        plans = {head: model.head_plans(head, "CTNormalization", mean) for head, mean in (("003", 0.0), ("010", 90.0))}
    folder = _import(model, tmp_path / "published", tmp_path / "results", plans=plans)
    segmenter = Predictor.from_model_folder(folder, device="cpu").segmenter
    assert isinstance(segmenter, SegmenterOfPasses)
    passes = segmenter._passes
    assert [len(each.channels) for each in passes] == ([2] if normalizations == "equal" else [1, 1])

    assert _run("-i", images, "-o", tmp_path / "o", "-m", folder) == 0
    for head in model.heads:
        found = _labels(tmp_path / "o" / head / "case.nii.gz")
        expected = _stock(model, head, plans[head], images, tmp_path)
        assert len(np.unique(expected)) >= 2, "a map of one class would hide any mistake"
        np.testing.assert_array_equal(found, expected)
    names = json.loads((tmp_path / "o" / "010" / "labels.json").read_text())["labels"]
    assert names == {"background": 0, "010/colon": 1, "010/liver": 2, "010/vessel": 3}


def test_heads_of_other_stems_see_their_own_channels(published_multitalent, images, make_ct, tmp_path, capsys):
    model = published_multitalent("stem per dataset")
    plans = {head: model.head_plans(head) for head in model.heads}
    folder = _import(model, tmp_path / "published", tmp_path / "results", plans=plans)
    assert _run("-i", images, "-o", tmp_path / "o", "-m", folder) == 2
    assert "1 of 003; 2 of 221; choose some with --heads" in capsys.readouterr().err
    image = make_ct(size=(30, 24, 17), direction=(0, 1, 0, -1, 0, 0, 0, 0, 1), seed=3)
    for head, flag in (("003", "--heads"), ("221", "-target_id")):
        if head == "221":
            SimpleITK.WriteImage(image, str(images / "case_0001.nii.gz"))
        assert _run("-i", images, "-o", tmp_path / "o", "-m", folder, flag, head) == 0
        expected = _stock(model, head, plans[head], images, tmp_path)
        assert len(np.unique(expected)) >= 2
        np.testing.assert_array_equal(_labels(tmp_path / "o" / head / "case.nii.gz"), expected)
        for file in (tmp_path / "o").glob("*.json"):
            file.unlink()  # what describes the first run


def test_heads_classes_and_masks_are_chosen(published_multitalent, images, tmp_path):
    folder = _import(published_multitalent("shared stem"), tmp_path / "published", tmp_path / "results")
    assert _run("-i", images, "-o", tmp_path / "all", "-m", folder) == 0
    whole = _labels(tmp_path / "all" / "010" / "case.nii.gz")

    assert _run("-i", images, "-o", tmp_path / "one", "-m", folder, "--heads", 10) == 0
    assert {path.name for path in (tmp_path / "one").iterdir() if path.is_dir()} == {"010", "progress"}
    np.testing.assert_array_equal(_labels(tmp_path / "one" / "010" / "case.nii.gz"), whole)

    flags = ("--outputs", "per_class", "--classes", "010/vessel", "003/liver")
    assert _run("-i", images, "-o", tmp_path / "masks", "-m", folder, *flags) == 0
    np.testing.assert_array_equal(_labels(tmp_path / "masks" / "case" / "010" / "vessel.nii.gz"), whole == 3)
    assert (tmp_path / "masks" / "case" / "003" / "liver.nii.gz").is_file()
    assert not (tmp_path / "masks" / "case" / "010" / "colon.nii.gz").exists()


@pytest.mark.parametrize("mode", ["fast", "fastest"])
def test_all_modes_know_heads(published_multitalent, images, tmp_path, mode):
    model = published_multitalent("shared stem")
    plans = {head: model.head_plans(head, "CTNormalization", mean) for head, mean in (("003", 0.0), ("010", 90.0))}
    folder = _import(model, tmp_path / "published", tmp_path / "results", plans=plans)
    file = images / "case_0000.nii.gz"
    both = Predictor.from_model_folder(folder, device="cpu", mode=mode).predict(file)
    for head in model.heads:
        alone = Predictor.from_model_folder(folder, device="cpu", mode=mode, heads=[head]).predict(file)
        array = SimpleITK.GetArrayFromImage(both[head])
        assert len(np.unique(array)) >= 2
        np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(alone[head]), array)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"heads": ["4"]}, r"Expected heads of the model \(003, 010\), but got 4"),
        ({"heads": ["../003"]}, r"but got \.\./003"),
        ({"outputs": "merged"}, "leave --outputs out"),
        ({"classes": ["liver"]}, "Expected classes of the model"),
        ({"level": 1}, "Expected a model with a label tree"),
    ],
)
def test_what_a_model_with_heads_cannot_do_is_said(published_multitalent, tmp_path, options, sentence):
    folder = _import(published_multitalent("shared stem"), tmp_path / "published", tmp_path / "results")
    with pytest.raises(UserError, match=sentence):
        Predictor.from_model_folder(folder, device="cpu", **options)


def test_one_head_is_imported_for_stock_commands_and_export(published_multitalent, images, tmp_path, capsys):
    from nnunetv2_ext.cli import export

    model = published_multitalent("shared stem")
    plans = {head: model.head_plans(head, "CTNormalization", mean) for head, mean in (("003", 0.0), ("010", 90.0))}
    whole = _import(model, tmp_path / "published", tmp_path / "all", plans=plans)
    assert export.main(["-m", str(whole), "-o", str(tmp_path / "n.pt2"), "--format", "torch_export"]) == 2
    assert "import the one to export with nnUNetv2_ext_import_weights --head" in capsys.readouterr().err

    flags = ["-d", "Dataset617_Colon", "-results", str(tmp_path / "one"), "--head", "10", "-f", "all", "--quiet"]
    assert import_weights.main([str(tmp_path / "published"), *flags]) == 0
    (one,) = (tmp_path / "one" / "Dataset617_Colon").iterdir()
    assert one.name == "nnUNetTrainer__MultiTalentPlans__3d_fullres"
    predictor = nnUNetPredictor(0.5, True, True, False, torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(one), ("all",))
    (tmp_path / "o").mkdir()
    predictor.predict_from_files_sequential(str(images), str(tmp_path / "o"))
    expected = _stock(model, "010", plans["010"], images, tmp_path)
    np.testing.assert_array_equal(_labels(tmp_path / "o" / "case.nii.gz"), expected)


def test_heads_that_the_dataset_json_does_not_describe_are_refused(published_multitalent, tmp_path):
    folder = _import(published_multitalent("shared stem"), tmp_path / "published", tmp_path / "results")
    content = json.loads((folder / "dataset.json").read_text())
    content["partial_labels"]["003"]["classes"].append(content["partial_labels"]["010"]["classes"].pop())
    (folder / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="mixes two models"):
        Predictor.from_model_folder(folder, device="cpu")


def test_probabilities_of_several_heads_and_heads_of_other_models_are_refused(
    published_multitalent, softmax_model, images, tmp_path, capsys
):
    folder = _import(published_multitalent("shared stem"), tmp_path / "published", tmp_path / "results")
    assert _run("-i", images, "-o", tmp_path / "o", "-m", folder, "--save_probabilities") == 2
    assert "has a head per source" in capsys.readouterr().err
    assert _run("-i", images, "-o", tmp_path / "o", "-m", softmax_model, "--heads", "003") == 2
    assert "Expected a model with a head per source for --heads" in capsys.readouterr().err
