"""What is inside the wheel, and what happens at interpreter start."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from nnunetv2_ext import autoload

ROOT = Path(__file__).resolve().parents[1]


def test_discovery_folder_is_appended_once_after_the_users_own():
    environment = {"nnUNet_extTrainer": os.pathsep.join(["mine", "theirs"])}
    autoload.register(environment)
    autoload.register(environment)
    assert environment["nnUNet_extTrainer"].split(os.pathsep) == ["mine", "theirs", autoload.DISCOVERY_FOLDER]


@pytest.mark.parametrize("before", [{}, {"nnUNet_extTrainer": ""}])
def test_discovery_works_without_the_variable(before):
    autoload.register(before)
    assert before["nnUNet_extTrainer"] == autoload.DISCOVERY_FOLDER


def test_interpreter_start_sets_the_variable_and_imports_nothing_heavy():
    code = (
        "import os, sys; print(os.environ['nnUNet_extTrainer']); "
        "print({'torch', 'numpy', 'nnunetv2'} & set(sys.modules))"
    )
    environment = {key: value for key, value in os.environ.items() if key != "nnUNet_extTrainer"}
    printed = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, encoding="utf-8", check=True
    ).stdout.splitlines()
    assert Path(printed[0]).name == "discovery"
    assert printed[1] == "set()"


@pytest.mark.parametrize(
    ("argv", "variable", "mode", "rest"),
    [
        (["/x/nnUNetv2_predict", "-i", "a", "--mode", "fast", "-o", "b"], None, "fast", ["-i", "a", "-o", "b"]),
        (["nnUNetv2_predict_from_modelfolder", "--mode=fastest"], None, "fastest", []),
        (["C:/x/nnUNetv2_predict.exe", "--mode"], None, "", []),
        (["nnUNetv2_predict", "--mode", "fast"], "accurate", "fast", []),
        (["nnUNetv2_predict", "-i", "a"], "accurate", "accurate", ["-i", "a"]),
        (["nnUNetv2_predict", "-i", "a"], None, None, ["-i", "a"]),
        (["nnUNetv2_train", "--mode", "fast"], None, None, ["--mode", "fast"]),
        (["TotalSegmentator", "--mode", "x"], "fast", "fast", ["--mode", "x"]),
        ([], " ", None, []),
    ],
)
def test_the_mode_is_taken_from_stock_commands_and_from_the_environment(argv, variable, mode, rest):
    environment = {} if variable is None else {autoload.MODE_VARIABLE: variable}
    argv = list(argv)
    assert autoload.take_mode(argv, environment) == mode
    assert argv[1:] == rest


@pytest.mark.parametrize(("variable", "finders"), [(None, 0), ("fast", 1)])
def test_nothing_is_hooked_unasked_and_nothing_twice(variable, finders):
    code = (
        "import sys, nnunetv2_ext.autoload as autoload; autoload.hook(); autoload.hook(); "
        "print(sum(type(finder).__name__ == '_AfterImport' for finder in sys.meta_path), "
        "{'torch', 'numpy', 'nnunetv2'} & set(sys.modules))"
    )
    environment = {key: value for key, value in os.environ.items() if key != autoload.MODE_VARIABLE}
    environment |= {} if variable is None else {autoload.MODE_VARIABLE: variable}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, encoding="utf-8", check=True
    )
    assert result.stdout.split("\n")[0] == f"{finders} set()"
    assert not result.stderr


def test_the_wheel_holds_resources_and_the_start_hook(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {
        "nnunetv2_ext.pth",
        "nnunetv2_ext/py.typed",
        "nnunetv2_ext/pages/templates/page.html",
        "nnunetv2_ext/pages/templates/style.css",
        "nnunetv2_ext/discovery/nnunetv2_ext_trainers.py",
        "nnunetv2_ext/plans/stunet_totalsegmentator.json",
        "nnunetv2_ext/label_orders/stunet_totalsegmentator.json",
    } <= names
    shipped = {
        f"nnunetv2_ext/{file.relative_to(ROOT)}"
        for name in ("plans", "label_orders")
        for file in ROOT.glob(f"{name}/**/*.json")
    }
    assert shipped <= names
