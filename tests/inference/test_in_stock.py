"""nnU-Net's own class with our methods, against the class as it is: equal files, equal arrays, equal rules."""

from __future__ import annotations

import inspect
import json
from typing import Any

import numpy as np
import pytest
import SimpleITK
import torch
from fixtures.model_folders import REGIONS
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from nnunetv2_ext.inference import in_stock


@pytest.fixture(autouse=True)
def no_processes(threads_instead_of_processes):
    """Stock's worker processes would each import torch."""


def stock_class():
    return type("nnUNetPredictor", (nnUNetPredictor,), {})


def ours(mode="accurate", command_line=None):
    changed = stock_class()
    in_stock.install(changed, mode, command_line)
    return changed


def initialised(kind, folder, folds=(0,), **options):
    predictor = kind(device=torch.device("cpu"), allow_tqdm=False, **options)
    predictor.initialize_from_trained_model_folder(str(folder), folds)
    return predictor


@pytest.fixture
def images(tmp_path, make_ct):
    folder = tmp_path / "images"
    folder.mkdir()
    for seed, name in enumerate(("a", "b")):
        SimpleITK.WriteImage(make_ct(seed=seed), str(folder / f"{name}_0000.nii.gz"))
    return folder


def labels_of(folder):
    return {file.name: SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(file))) for file in folder.glob("*.nii.gz")}


# Of stock's methods the one without processes, each of which would import torch; they write the same.
SEQUENTIAL = "predict_from_files_sequential"

CASES: dict[str, dict[str, Any]] = {
    "softmax": {},
    "regions": {"dataset": REGIONS},
    "two folds, mirroring": {"folds": (0, 1), "mirror_axes": (0, 1, 2)},
    "2d": {"configuration": "2d"},
    "images of the training that lay otherwise": {"dataset": {"image_orientation": "PIR"}},
    "transposed": {"plans": {"transpose_forward": [2, 0, 1], "transpose_backward": [1, 2, 0]}},
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("method", ["predict_from_files", "predict_from_files_sequential"])
def test_accurate_writes_stocks_files(case, method, tmp_path, make_model_folder, images):
    folder = make_model_folder(tmp_path / "model", **CASES[case])
    folds = CASES[case].get("folds", (0,))
    for name, kind, called in (("stock", stock_class(), SEQUENTIAL), ("ours", ours(), method)):
        (tmp_path / name).mkdir()
        returned = getattr(initialised(kind, folder, folds), called)(str(images), str(tmp_path / name))
        assert not any(result is not None for result in returned)
    expected, found = labels_of(tmp_path / "stock"), labels_of(tmp_path / "ours")
    assert sorted(found) == ["a.nii.gz", "b.nii.gz"]
    for name, labels in expected.items():
        assert len(np.unique(labels)) > 1
        assert labels.dtype == found[name].dtype
        np.testing.assert_array_equal(found[name], labels)
    for name in ("dataset.json", "plans.json"):
        assert (tmp_path / "stock" / name).read_bytes() == (tmp_path / "ours" / name).read_bytes()
    arguments = json.loads((tmp_path / "ours" / "predict_from_raw_data_args.json").read_text())
    assert sorted(arguments) == sorted(inspect.signature(getattr(nnUNetPredictor, method)).parameters.keys() - {"self"})
    assert arguments["list_of_lists_or_source_folder"] == str(images)
    assert sorted(path.name for path in (tmp_path / "stock").iterdir()) == sorted(
        path.name for path in (tmp_path / "ours").iterdir()
    )


@pytest.mark.parametrize("regions", [False, True], ids=["softmax", "regions"])
def test_arrays_come_back_as_from_stock(tmp_path, make_model_folder, make_ct, regions):
    folder = make_model_folder(tmp_path / "model", dataset=REGIONS if regions else None)
    array = SimpleITK.GetArrayFromImage(make_ct())[None].astype(np.float32)
    properties = {"spacing": [2.5, 1.1, 0.9]}
    stock, changed = (initialised(kind, folder) for kind in (stock_class(), ours()))
    expected = stock.predict_single_npy_array(array, dict(properties))
    (found,) = changed.predict_from_list_of_npy_arrays([array], None, [dict(properties)], None, 1)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(changed.predict_single_npy_array(array, dict(properties)), expected)
    with_probabilities = [
        side.predict_single_npy_array(array, dict(properties), save_or_return_probabilities=True)
        for side in (stock, changed)
    ]
    for theirs, our_own in zip(*with_probabilities, strict=True):
        np.testing.assert_array_equal(our_own, theirs)


def test_the_second_stage_of_a_cascade(tmp_path, make_model_folder, images):
    folder = make_model_folder(tmp_path / "model", changes={"previous_stage": "3d_lowres"}, channels=1)
    previous = tmp_path / "previous"
    previous.mkdir()
    for file in images.iterdir():
        labels = SimpleITK.Cast(SimpleITK.ReadImage(str(file)) > 0, SimpleITK.sitkUInt8) * 2
        SimpleITK.WriteImage(labels, str(previous / file.name.replace("_0000", "")))
    for name, kind in (("stock", stock_class()), ("ours", ours())):
        (tmp_path / name).mkdir()
        initialised(kind, folder).predict_from_files_sequential(
            str(images), str(tmp_path / name), folder_with_segs_from_prev_stage=str(previous)
        )
    expected, found = labels_of(tmp_path / "stock"), labels_of(tmp_path / "ours")
    assert found.keys() == expected.keys() != set()
    for name, labels in expected.items():
        np.testing.assert_array_equal(found[name], labels)


def test_existing_files_are_kept_or_replaced_as_by_stock(tmp_path, softmax_model, images):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.nii.gz").write_bytes(b"kept")
    predictor = initialised(ours(), softmax_model)
    predictor.predict_from_files(str(images), str(tmp_path / "out"), overwrite=False)
    assert (tmp_path / "out" / "a.nii.gz").read_bytes() == b"kept"
    assert (tmp_path / "out" / "b.nii.gz").stat().st_size > 100
    predictor.predict_from_files(str(images), str(tmp_path / "out"), num_parts=2, part_id=0)
    assert (tmp_path / "out" / "a.nii.gz").stat().st_size > 100
    assert predictor.predict_from_files([], None) is None


def test_totalsegmentators_patch_stays_away():
    assert "use_cropped_logits_resampling" in inspect.signature(ours().predict_from_files).parameters
    assert "use_cropped_logits_resampling" not in inspect.signature(stock_class().predict_from_files).parameters


def test_the_mode_decides_what_the_caller_did_not_type():
    for command_line, step, mirroring in (
        (None, 0.5, True),
        (["-i", "x"], 0.8, False),
        (["-step_size", "0.5"], 0.5, False),
        (["-step", "0.5"], 0.5, False),
        (["--disable_tta"], 0.8, False),
    ):
        predictor = ours("fastest", command_line)(
            device=torch.device("cpu"), use_mirroring=command_line != ["--disable_tta"]
        )
        assert (predictor.tile_step_size, predictor.use_mirroring) == (step, mirroring)


def test_fast_modes_are_those_of_our_command(tmp_path, make_model_folder, images):
    from nnunetv2_ext.cli import predict

    folder = make_model_folder(tmp_path / "model")
    arguments = [
        "-i",
        str(images),
        "-o",
        str(tmp_path / "command"),
        "-m",
        str(folder),
        "-device",
        "cpu",
        "-f",
        "0",
        "--quiet",
    ]
    assert predict.main([*arguments, "--mode", "fastest"]) == 0
    initialised(ours("fastest", []), folder).predict_from_files(str(images), str(tmp_path / "class"))
    expected, found = labels_of(tmp_path / "command"), labels_of(tmp_path / "class")
    for name, labels in expected.items():
        np.testing.assert_array_equal(found[name], labels)


def test_what_ours_lacks_is_left_to_stock(tmp_path, softmax_model, images, caplog):
    for name, kind in (("stock", stock_class()), ("ours", ours())):
        (tmp_path / name).mkdir()
        initialised(kind, softmax_model, use_gaussian=False).predict_from_files_sequential(
            str(images), str(tmp_path / name), save_probabilities=True
        )
    assert caplog.text.count("nnU-Net's own prediction is used, because probabilities are asked for") == 1
    for file in (tmp_path / "stock").glob("*.npz"):
        theirs, our_own = (np.load(tmp_path / side / file.name)["probabilities"] for side in ("stock", "ours"))
        np.testing.assert_array_equal(our_own, theirs)


def test_a_mode_that_does_not_exist(capsys):
    with pytest.raises(SystemExit) as stopped:
        in_stock.install(stock_class(), "quick")
    assert stopped.value.code == 2
    assert "Expected one of accurate, fast, fastest as the mode, but got 'quick'." in capsys.readouterr().err


def test_a_second_call_changes_nothing():
    changed = ours("fast")
    methods = dict(vars(changed))
    in_stock.install(changed, "accurate")
    assert dict(vars(changed)) == methods
