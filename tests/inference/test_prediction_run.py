"""What a run over many cases refuses before it predicts, and what it says of single cases."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest
import SimpleITK
import torch

from nnunetv2_ext.inference import Predictor, prediction_run
from nnunetv2_ext.inference.prediction_run import PredictionOptions, PredictionRun
from nnunetv2_ext.utilities.errors import UserError


@pytest.fixture
def predictor(softmax_model):
    return Predictor.from_model_folder(softmax_model, device="cpu", mode="fastest")


@pytest.fixture
def two_images(tmp_path, make_ct):
    folder = tmp_path / "images"
    folder.mkdir()
    for case in "ab":
        SimpleITK.WriteImage(make_ct(), str(folder / f"{case}_0000.nii.gz"))
    return folder


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"preparing_workers": -1}, "Expected -npp to be at least 0, but got -1"),
        ({"finishing_workers": -2}, "Expected -nps to be at least 0, but got -2"),
        ({"num_gpus": 0}, "Expected -num_gpus to be at least 1, but got 0"),
        ({"num_parts": 0}, "Expected -num_parts to be at least 1, but got 0"),
        ({"num_parts": 2, "part_id": 2}, "Expected -part_id between 0 and 1"),
    ],
    ids=str,
)
def test_numbers_that_make_no_sense_are_refused(predictor, two_images, tmp_path, options, sentence):
    with pytest.raises(UserError, match=sentence):
        PredictionRun(predictor, two_images, tmp_path / "out", PredictionOptions(**options))
    assert not (tmp_path / "out").exists()


def test_several_cases_do_not_fit_into_one_file(predictor, two_images, tmp_path):
    with pytest.raises(
        UserError, match=r"Expected a folder as the output of 2 cases .* but got the file .*one\.nii\.gz"
    ):
        PredictionRun(predictor, two_images, tmp_path / "out" / "one.nii.gz")
    assert not (tmp_path / "out").exists()


def test_a_case_without_the_label_map_of_the_previous_stage_fails_alone(tmp_path, make_model_folder, two_images):
    model = make_model_folder(tmp_path / "model", changes={"previous_stage": "3d_lowres"})
    previous = tmp_path / "previous"
    previous.mkdir()
    image = SimpleITK.ReadImage(str(two_images / "a_0000.nii.gz"))
    SimpleITK.WriteImage(SimpleITK.Cast(image > 100, SimpleITK.sitkUInt8), str(previous / "a.nii.gz"))
    options = PredictionOptions(previous_stage=previous, progress_bar=False)
    outcome = PredictionRun(
        Predictor.from_model_folder(model, device="cpu"), two_images, tmp_path / "out", options
    ).run()
    assert [case.identifier for case in outcome.done] == ["a"]
    (failure,) = outcome.failures
    assert failure.case.identifier == "b"
    assert failure.reason == f"Expected the previous stage's label map {previous / 'b.nii.gz'}, but it does not exist."
    assert (tmp_path / "out" / "a.nii.gz").is_file()
    assert not (tmp_path / "out" / "b.nii.gz").exists()


@pytest.fixture
def cascade(tmp_path, make_model_folder):
    """The folder of a cascade's second stage, beside that of its first."""
    names = {name: tmp_path / f"nnUNetTrainer__nnUNetPlans__{name}" for name in ("3d_lowres", "3d_cascade_fullres")}
    make_model_folder(names["3d_lowres"], configuration="3d_lowres", spacing=(3.0, 2.5, 2.5), folds=(0, 1))
    second = {"configuration": "3d_cascade_fullres", "changes": {"previous_stage": "3d_lowres"}}
    return make_model_folder(names["3d_cascade_fullres"], **second, folds=(0, 1))


def _labels_of(folder):
    return {file.name: SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(file)) for file in folder.glob("*.nii.gz")}


def test_a_cascade_predicts_its_first_stage_as_stock_would(tmp_path, cascade, two_images, monkeypatch):
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    stock = nnUNetPredictor(perform_everything_on_device=False, device=torch.device("cpu"), allow_tqdm=False)
    first = cascade.with_name("nnUNetTrainer__nnUNetPlans__3d_lowres")
    for folder, target, previous in ((first, "first", None), (cascade, "stock", tmp_path / "first")):
        (tmp_path / target).mkdir()
        stock.initialize_from_trained_model_folder(str(folder), (0, 1))
        stock.predict_from_files_sequential(
            str(two_images), str(tmp_path / target), folder_with_segs_from_prev_stage=previous and str(previous)
        )
    expected = _labels_of(tmp_path / "stock")
    assert all(len(np.unique(labels)) > 2 for labels in (_labels_of(tmp_path / "first") | expected).values())
    (two_images / "c_0000.nii.gz").write_bytes(b"no image")
    predictor = Predictor.from_model_folder(cascade, device="cpu")
    options = PredictionOptions(report=True, progress_bar=False)
    said = []
    for level in ("info", "error"):
        monkeypatch.setattr(prediction_run._logger, level, lambda text, *values: said.append(text % values))
    outcome = PredictionRun(predictor, two_images, tmp_path / "ours", options).run()
    found = _labels_of(tmp_path / "ours")
    assert sorted(found) == ["a.nii.gz", "b.nii.gz"]
    for name, labels in expected.items():
        np.testing.assert_array_equal(found[name], labels)
    assert [failure.case.identifier for failure in outcome.failures] == ["c"]
    assert sum(str(first) in sentence for sentence in said) == sum("c failed" in sentence for sentence in said) == 1
    assert not [path for path in (tmp_path / "ours").iterdir() if path.name.startswith(".")]
    record = json.loads((tmp_path / "ours" / "prediction.json").read_text(encoding="utf-8"))
    assert list(record["checkpoints_of_first_stage"]) == [f"fold_{fold}/checkpoint_final.pth" for fold in (0, 1)]


def test_nothing_of_the_first_stage_outlives_an_interrupt_or_the_run_after_a_kill(
    tmp_path, cascade, two_images, monkeypatch
):
    predictor = Predictor.from_model_folder(cascade, folds=[0], device="cpu", mode="fastest")
    target, options = tmp_path / "out", PredictionOptions(progress_bar=False)

    def interrupted(*_):
        (folder,) = target.glob(".*.tmp")
        assert sorted(file.name for file in folder.glob("*.gz")) == ["a.nii.gz", "b.nii.gz"]
        shutil.copytree(folder, folder.with_name(folder.name[:-5] + "_.tmp"))  # as a killed run leaves it
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(predictor, "segment", interrupted)
        with pytest.raises(KeyboardInterrupt):
            PredictionRun(predictor, two_images, target, options).run()
    assert [path.name[-5:] for path in target.glob(".*")] == ["_.tmp"]
    assert len(PredictionRun(predictor, two_images, target, options).run().done) == 2
    assert not list(target.glob(".*"))


def test_a_cascade_without_its_first_stage_says_where_it_looked(tmp_path, cascade, two_images):
    first = cascade.with_name("nnUNetTrainer__nnUNetPlans__3d_lowres")
    predictor = Predictor.from_model_folder(cascade, device="cpu")
    for file in first.glob("fold_1/*"):
        file.unlink()
    with pytest.raises(UserError, match=rf"for fold 1 in {re.escape(str(first))}, but found it for 0"):
        PredictionRun(predictor, two_images, tmp_path / "out")
    shutil.rmtree(first)
    with pytest.raises(UserError, match=rf"previous stage .3d_lowres., or its model in {re.escape(str(first))};"):
        PredictionRun(predictor, two_images, tmp_path / "out")
    assert not (tmp_path / "out").exists()
