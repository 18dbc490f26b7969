"""``--mode`` behind stock commands and the variable for all other programs, in processes as users start them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

pytestmark = pytest.mark.slow

ON = "nnunetv2_ext: nnU-Net's predictor works in mode"


def run(program, *arguments, **variables):
    """The result of an installed command, whatever its exit code."""
    environment = {key: value for key, value in os.environ.items() if key != "nnUNet_extTrainer"}
    path = str(Path(sys.executable).with_name(program)) if program != "python" else sys.executable
    return subprocess.run(
        [path, *arguments], env={**environment, **variables}, capture_output=True, encoding="utf-8", timeout=600
    )


@pytest.fixture
def model(nnunet_folders, make_model_folder):
    folder = nnunet_folders / "nnUNet_results" / "Dataset001_Tiny" / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    return make_model_folder(folder, mirror_axes=(0,))


@pytest.fixture
def images(tmp_path, make_ct):
    (tmp_path / "images").mkdir()
    SimpleITK.WriteImage(make_ct(), str(tmp_path / "images" / "a_0000.nii.gz"))
    return tmp_path / "images"


def label_map(folder):
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(folder / "a.nii.gz")))


def test_both_stock_commands_and_any_program(tmp_path, model, images):
    where = ["-i", str(images), "-f", "0", "-device", "cpu", "-npp", "1", "-nps", "1"]
    by_name = ["nnUNetv2_predict", *where, "-d", "1", "-c", "3d_fullres"]
    by_folder = ["nnUNetv2_predict_from_modelfolder", *where, "-m", str(model)]
    program = (
        "import sys, torch\n"
        "from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor\n"
        "predictor = nnUNetPredictor(device=torch.device('cpu'), allow_tqdm=False)\n"
        "predictor.initialize_from_trained_model_folder(sys.argv[1], (0,))\n"
        "predictor.predict_from_files(sys.argv[2], sys.argv[3])\n"
    )
    in_python = ["python", "-c", program, str(model), str(images), str(tmp_path / "python")]
    stock = run(*by_folder, "-o", str(tmp_path / "stock"))
    assert stock.returncode == 0, stock.stderr
    assert ON not in stock.stderr
    for name, command, variables in (
        ("name", [*by_name, "-o", str(tmp_path / "name"), "--mode", "accurate"], {}),
        ("folder", [*by_folder, "--mode=accurate", "-o", str(tmp_path / "folder")], {}),
        ("python", in_python, {"nnUNetv2_ext_mode": "accurate"}),
    ):
        result = run(*command, **variables)
        assert result.returncode == 0, result.stderr
        assert result.stderr.count(f"{ON} accurate.") == 1
        np.testing.assert_array_equal(label_map(tmp_path / name), label_map(tmp_path / "stock"))
    assert len(np.unique(label_map(tmp_path / "stock"))) > 1


def test_a_mistyped_mode_ends_in_a_sentence(tmp_path, model, images):
    result = run("nnUNetv2_predict", "-i", str(images), "-o", str(tmp_path / "out"), "--mode", "quick")
    assert result.returncode == 2
    assert "Expected one of accurate, fast, fastest as the mode, but got 'quick'." in result.stderr
    assert "Traceback" not in result.stderr
