from __future__ import annotations

from importlib.metadata import metadata
from pathlib import Path

import pytest

from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.extras import require_extra


def test_says_what_is_missing_and_how_to_install_it():
    with pytest.raises(UserError) as error:
        require_extra("monai", "The trainer X", "numpy", "no_such_library")
    assert str(error.value) == (
        "The trainer X needs no_such_library, which is not installed; run: pip install 'nnunetv2-ext[monai]'."
    )
    with pytest.raises(UserError, match="needs no_such_library, nor_this_one, which are not installed"):
        require_extra("onnx", "The format onnx", "no_such_library", "nor_this_one")


def test_is_silent_where_all_is_installed():
    require_extra("numpy", "Everything")
    require_extra("test", "Everything", "numpy", "torch")


def test_the_extras_that_the_code_names_exist():
    package = Path(__file__).resolve().parents[2] / "nnunetv2_ext"
    named = {
        line.split('require_extra("', 1)[1].split('"', 1)[0]
        for file in package.rglob("*.py")
        for line in file.read_text(encoding="utf-8").splitlines()
        if 'require_extra("' in line
    }
    assert (
        {"monai", "onnx", "openvino", "dicom"} <= named <= set(metadata("nnunetv2-ext").get_all("Provides-Extra") or ())
    )
