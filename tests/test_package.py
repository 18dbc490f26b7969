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
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert Path(printed[0]).name == "discovery"
    assert printed[1] == "set()"


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
