"""Scans that are stored otherwise than the images of the training, against stored as those: nothing may differ."""

from __future__ import annotations

import json
import logging
from itertools import permutations, product
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2_ext.inference import Predictor
from nnunetv2_ext.inference.model.folder import read_model
from nnunetv2_ext.inference.prediction_run import PredictionOptions
from nnunetv2_ext.utilities.errors import UserError

EVERY_ORIENTATION = [
    "".join(letters) for axes in permutations(("LR", "PA", "SI")) for letters in product(*axes)
]  # fmt: skip
RECORD = "PIR"
# Statistics of the whole image show whether voxels are added up in another order.
CHANGES = {"normalization_schemes": ["ZScoreNormalization"]}


@pytest.fixture(scope="module")
def models(tmp_path_factory, make_model_folder):
    """The same weights with and without a record of how the images of the training lay."""
    folder = tmp_path_factory.mktemp("models")
    return (
        make_model_folder(folder / "recorded", dataset={"image_orientation": RECORD}, changes=CHANGES),
        make_model_folder(folder / "silent", changes=CHANGES),
    )


@pytest.fixture(scope="module")
def ct(make_ct):
    """Oblique, so that no axis is exactly an anatomical one."""
    a, b = np.deg2rad((20, 12))
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    tilt = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    return make_ct(size=(18, 15, 10), direction=tilt @ turn)


def voxels(image):
    return sitk.GetArrayFromImage(image)


def in_record(image):
    return voxels(sitk.DICOMOrient(image, RECORD))


def write(images, folder):
    folder.mkdir()
    for name, image in images.items():
        sitk.WriteImage(image, str(folder / f"{name}_0000.nii.gz"))
    return folder


def test_all_48_orientations_give_the_same_label_map(models, ct):
    recorded, silent = (Predictor.from_model_folder(model, device="cpu") for model in models)
    expected = voxels(silent.predict(sitk.DICOMOrient(ct, RECORD)))
    assert len(np.unique(expected)) >= 3
    assert len(set(EVERY_ORIENTATION)) == 48
    moved = 0
    for orientation in EVERY_ORIENTATION:
        image = sitk.DICOMOrient(ct, orientation)
        found: Any = recorded.predict(image)
        assert found.GetSize() == image.GetSize()
        assert found.GetDirection() == pytest.approx(image.GetDirection(), abs=1e-6)
        assert found.GetOrigin() == pytest.approx(image.GetOrigin())
        np.testing.assert_array_equal(in_record(found), expected, err_msg=orientation)
        if orientation in ("LPS", "SAL"):
            moved += np.count_nonzero(in_record(silent.predict(image)) != expected)
    assert moved, "a network that sees no difference would prove nothing"


def test_without_record_or_with_the_order_of_files_nothing_is_turned(models, ct):
    recorded, silent = models
    image = sitk.DICOMOrient(ct, "SAL")
    expected = voxels(Predictor.from_model_folder(silent, device="cpu").predict(image))
    in_order_of_file = Predictor.from_model_folder(recorded, device="cpu", orientation="file")
    np.testing.assert_array_equal(voxels(in_order_of_file.predict(image)), expected)
    # Nobody knows how an array lies.
    arrays = Predictor.from_model_folder(recorded, device="cpu")
    np.testing.assert_array_equal(arrays.predict(voxels(image), image.GetSpacing()[::-1]), expected)
    with pytest.raises(UserError, match="one of training, file as the orientation, but got 'RAS'"):
        Predictor.from_model_folder(recorded, device="cpu", orientation="RAS")


def test_a_transposed_model_and_an_empty_border(tmp_path, make_model_folder, ct):
    plans = {"transpose_forward": [2, 0, 1], "transpose_backward": [1, 2, 0]}
    recorded = make_model_folder(tmp_path / "recorded", dataset={"image_orientation": RECORD}, plans=plans)
    silent = make_model_folder(tmp_path / "silent", plans=plans)
    array = voxels(ct)
    array[:3], array[:, :, -5:] = 0, 0
    image = sitk.GetImageFromArray(array)
    image.CopyInformation(ct)
    expected = voxels(Predictor.from_model_folder(silent, device="cpu").predict(sitk.DICOMOrient(image, RECORD)))
    for orientation in ("LPS", "ASL"):
        found = Predictor.from_model_folder(recorded, device="cpu").predict(sitk.DICOMOrient(image, orientation))
        np.testing.assert_array_equal(in_record(found), expected)


def test_the_previous_stage_of_a_cascade_is_turned_with_the_image(tmp_path, make_model_folder, ct):
    changes = {"previous_stage": "3d_lowres"}
    recorded = make_model_folder(tmp_path / "recorded", dataset={"image_orientation": RECORD}, changes=changes)
    silent = make_model_folder(tmp_path / "silent", changes=changes)
    first = sitk.GetImageFromArray(np.random.default_rng(0).integers(0, 4, ct.GetSize()[::-1]).astype(np.uint8))
    first.CopyInformation(ct)

    def predict(model, orientation):
        image, previous = (sitk.DICOMOrient(each, orientation) for each in (ct, first))
        return Predictor.from_model_folder(model, device="cpu").predict(image, previous_stage=previous)

    expected = voxels(predict(silent, RECORD))
    for orientation in ("LPS", "SRA"):
        np.testing.assert_array_equal(in_record(predict(recorded, orientation)), expected)


def test_probabilities_and_figures_are_those_of_the_file(tmp_path, models, ct):
    from batchgenerators.utilities.file_and_folder_operations import load_pickle
    from nnunetv2.ensembling.ensemble import merge_files
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    recorded, silent = models
    options = PredictionOptions(save_probabilities=True, statistics=True, preview=True, progress_bar=False)
    names = ("LPS", "IAL")
    scans = write({name: sitk.DICOMOrient(ct, name) for name in names}, tmp_path / "scans")
    straight = write({RECORD: sitk.DICOMOrient(ct, RECORD)}, tmp_path / "straight")
    for model, source, target in ((recorded, scans, "turned"), (silent, straight, "expected")):
        Predictor.from_model_folder(model, device="cpu").predict_folder(source, tmp_path / target, options)
    expected = np.load(tmp_path / "expected" / f"{RECORD}.npz")["probabilities"]
    figures = json.loads((tmp_path / "turned" / "statistics.json").read_text())
    of_record = json.loads((tmp_path / "expected" / "statistics.json").read_text())[RECORD]
    for name in names:
        scan = sitk.ReadImage(str(scans / f"{name}_0000.nii.gz"))
        for channel, values in enumerate(np.load(tmp_path / "turned" / f"{name}.npz")["probabilities"]):
            found = sitk.GetImageFromArray(values)
            found.CopyInformation(scan)
            np.testing.assert_array_equal(in_record(found), expected[channel])
        for organ, numbers in of_record.items():
            assert figures[name][organ] == pytest.approx(numbers)
        remembered = load_pickle(str(tmp_path / "turned" / f"{name}.pkl"))
        assert remembered["spacing"] == pytest.approx(scan.GetSpacing()[::-1])
        assert "bbox_used_for_cropping" not in remembered, "it is one of the turned image"
        # nnU-Net's ensembling makes the same label map of them, where the file lies.
        file, merged = str(tmp_path / "turned" / name), tmp_path / f"{name}.nii.gz"
        merge_files([f"{file}.npz"], str(tmp_path / name), ".nii.gz", SimpleITKIO(), read_model(recorded).labels)
        ours, theirs = sitk.ReadImage(f"{file}.nii.gz"), sitk.ReadImage(str(merged))
        assert theirs.GetDirection() == pytest.approx(ours.GetDirection(), abs=1e-6)
        assert theirs.GetOrigin() == pytest.approx(ours.GetOrigin())
        assert (voxels(ours) == voxels(theirs)).mean() > 0.999


@pytest.mark.parametrize(
    ("record", "orientation", "names", "said"),
    [
        (False, "training", ("LPS", "RAS"), "WARNING The scans of this run lie differently (1 LPS, 1 RAS)"),
        (True, "file", ("LPS", "RAS"), "WARNING The scans of this run lie differently (1 LPS, 1 RAS)"),
        (
            False,
            "training",
            ("RAS",),
            "INFO How the images of the training lay is not recorded: scans (1 RAS) were not",
        ),
        (True, "file", ("RAS",), ""),
        (True, "training", ("LPS", "RAS"), ""),
    ],
)
def test_what_a_run_says(record, orientation, names, said, models, ct, tmp_path, caplog, monkeypatch):
    scans = write({name: sitk.DICOMOrient(ct, name) for name in names}, tmp_path / "scans")
    predictor = Predictor.from_model_folder(models[not record], device="cpu", mode="fastest", orientation=orientation)
    with caplog.at_level(logging.INFO, "nnunetv2_ext"):
        outcome = predictor.predict_folder(scans, tmp_path / "out", PredictionOptions(progress_bar=False))
    assert not outcome.failures
    lines = [f"{line.levelname} {line.getMessage()}" for line in caplog.records]
    found = [line for line in lines if "lie differently" in line or "lay is not recorded" in line]
    assert len(found) == bool(said)
    assert all(line.startswith(said) for line in found)


def test_results_of_the_other_way_are_not_continued(models, ct, tmp_path):
    scans = write({"a": ct, "b": ct}, tmp_path / "scans")
    for name, orientation in (("a", "training"), ("b", "file")):
        predictor = Predictor.from_model_folder(models[0], device="cpu", mode="fastest", orientation=orientation)
        options = PredictionOptions(continue_prediction=True, progress_bar=False)
        if name == "a":
            predictor.predict_folder(scans, tmp_path / "out", options)
            (tmp_path / "out" / "b.nii.gz").unlink()
            continue
        with pytest.raises(UserError, match=r"same model and options, but prediction\.json there says otherwise"):
            predictor.predict_folder(scans, tmp_path / "out", options)


def test_a_record_that_is_no_orientation_is_refused(tmp_path, make_model_folder):
    for number, wrong in enumerate(("axial", "RAA", "ras", ["R", "A", "S"])):
        folder = make_model_folder(tmp_path / str(number), dataset={"image_orientation": wrong})
        with pytest.raises(UserError, match=r"Expected an orientation such as RAS or LPS as image_orientation"):
            read_model(folder)
