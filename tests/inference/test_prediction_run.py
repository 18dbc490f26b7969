"""What a run over many cases refuses before it predicts, and what it says of single cases."""

from __future__ import annotations

import pytest
import SimpleITK

from nnunetv2_ext.inference import Predictor
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
