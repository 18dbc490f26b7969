"""The report on the set-up, in good and in broken ones."""

from __future__ import annotations

import importlib.metadata
import os

import pytest

from nnunetv2_ext.utilities import environment
from nnunetv2_ext.utilities.environment import DISCOVERY_FOLDER, check_environment

TRAINER = "STUNetTrainer_small"


def broken(findings):
    return {finding.subject: finding.message for finding in findings if finding.state == "broken"}


@pytest.fixture
def no_lookup(monkeypatch):
    """Leaves out the full trainer lookup, which imports all of nnU-Net's trainers."""
    monkeypatch.setattr(environment, "_discovery", lambda trainer: environment.Finding("ok", "trainer lookup", trainer))


@pytest.mark.slow
def test_good_set_up(nnunet_folders):
    findings = list(check_environment(TRAINER))
    assert broken(findings) == {}
    messages = {finding.subject: finding.message for finding in findings}
    assert "nnunetv2_ext.training.trainers" in messages["trainer lookup"]
    assert messages["nnunetv2"] == importlib.metadata.version("nnunetv2")
    assert messages["nnUNet_raw"] == str(nnunet_folders / "nnUNet_raw")
    assert messages["extra monai"] == "installed"


def test_folders(nnunet_folders, monkeypatch, no_lookup):
    monkeypatch.delenv("nnUNet_raw")
    monkeypatch.setenv("nnUNet_preprocessed", str(nnunet_folders / "elsewhere"))
    found = broken(check_environment(TRAINER))
    assert set(found) == {"nnUNet_raw", "nnUNet_preprocessed"}
    assert "export nnUNet_raw=" in found["nnUNet_raw"]
    assert f"mkdir -p {nnunet_folders / 'elsewhere'}" in found["nnUNet_preprocessed"]


def test_folder_that_is_not_writable(nnunet_folders, monkeypatch, no_lookup):
    # The tests may run as root, to whom every folder is writable.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert set(broken(check_environment(TRAINER))) == {"nnUNet_preprocessed", "nnUNet_results"}


@pytest.mark.parametrize(("version", "message"), [("2.5", "expected <3,>=2.8.1, found 2.5"), (None, "not installed")])
def test_wrong_versions(nnunet_folders, monkeypatch, no_lookup, version, message):
    real = importlib.metadata.version

    def fake(name):
        if name != "nnunetv2":
            return real(name)
        if version is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(importlib.metadata, "version", fake)
    found = broken(check_environment(TRAINER))
    assert set(found) == {"nnunetv2"}
    assert message in found["nnunetv2"]
    assert "pip install 'nnunetv2<3,>=2.8.1'" in found["nnunetv2"]


def test_source_on_the_path_is_not_an_installation(nnunet_folders, monkeypatch, no_lookup):
    monkeypatch.setattr(environment, "DISTRIBUTION", "nnunetv2-ext-that-is-not-installed")
    found = broken(check_environment(TRAINER))
    assert "pip install -e ." in found["nnunetv2-ext-that-is-not-installed"]


def test_discovery_folder_missing(nnunet_folders, monkeypatch, tmp_path):
    monkeypatch.setenv("nnUNet_extTrainer", str(tmp_path))
    found = broken(check_environment(TRAINER))
    assert set(found) == {"trainer lookup"}
    assert f"export nnUNet_extTrainer='{tmp_path}{os.pathsep}{DISCOVERY_FOLDER}'" in found["trainer lookup"]


def test_lookup_that_fails(nnunet_folders, monkeypatch):
    from nnunetv2.utilities import find_objects

    def fail(name):
        raise RuntimeError("operator torchvision::nms does not exist\nand more")

    monkeypatch.setattr(find_objects, "recursive_find_trainer_class_by_name", fail)
    found = broken(check_environment(TRAINER))
    assert "operator torchvision::nms does not exist" in found["trainer lookup"]


def test_discovery_folder_holds_the_only_module():
    assert [path.name for path in DISCOVERY_FOLDER.glob("*.py")] == ["nnunetv2_ext_trainers.py"]
