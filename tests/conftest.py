"""Fixtures that several test modules use."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

# Data loading and tensor threads beyond the two cores that the tests are written for only get in each other's way.
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("nnUNet_n_proc_DA", "0")
os.environ.setdefault("nnUNet_def_n_proc", "1")

_SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture
def nnunet_folders(tmp_path, monkeypatch):
    """Empty nnUNet_raw, nnUNet_preprocessed and nnUNet_results, set in the environment; returns their parent."""
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (tmp_path / variable).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / variable))
    return tmp_path


@pytest.fixture(scope="session")
def shared_folder():
    """The folder with real CTs and reference outputs beside a developer's checkout."""
    if not _SHARED.is_dir():
        pytest.skip("the folder with real CTs and reference outputs is not beside this checkout")
    return _SHARED


@pytest.fixture(scope="session")
def real_ct_folder(shared_folder):
    """Three small real CTs with masks."""
    return shared_folder / "data"


@pytest.fixture(scope="session")
def reference_folder(shared_folder):
    """Facts and expected outputs of tiny reference networks."""
    return shared_folder / "reference"


TINY_DATASET = "Dataset007_Tiny"


def _use_threads(patch):
    """Lets nnU-Net's process pools be thread pools: every spawned process would import torch and nnU-Net anew."""
    from multiprocessing import get_context, pool

    class Threads:
        Pool = pool.ThreadPool

    real = get_context
    patch.setattr("multiprocessing.get_context", lambda method=None: Threads if method == "spawn" else real(method))


@pytest.fixture
def threads_instead_of_processes(monkeypatch):
    """Makes nnU-Net preprocess and export in threads, which saves ten seconds per pool."""
    _use_threads(monkeypatch)


@pytest.fixture(scope="session")
def _tiny_folders(tmp_path_factory):
    """A raw dataset of six 24^3 images with two spheres, planned and preprocessed once per test session."""
    import numpy as np
    import SimpleITK as sitk

    root = tmp_path_factory.mktemp("tiny")
    raw = root / "nnUNet_raw" / TINY_DATASET
    (raw / "imagesTr").mkdir(parents=True)
    (raw / "labelsTr").mkdir()
    grid = np.stack(np.meshgrid(*[np.arange(24)] * 3, indexing="ij"), -1)
    rng = np.random.default_rng(0)
    for index in range(6):
        label = np.zeros((24, 24, 24), np.uint8)
        for value in (1, 2):
            center = rng.integers(7, 17, 3)
            label[np.linalg.norm(grid - center, axis=-1) < 5] = value
        image = label * 100.0 + rng.normal(0, 10, label.shape)
        for array, path in (
            (image.astype(np.float32), raw / "imagesTr" / f"case_{index}_0000.nii.gz"),
            (label, raw / "labelsTr" / f"case_{index}.nii.gz"),
        ):
            sitk.WriteImage(sitk.GetImageFromArray(array), str(path))
    dataset_json = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "liver": 1, "spleen": 2},
        "numTraining": 6,
        "file_ending": ".nii.gz",
    }
    (raw / "dataset.json").write_text(json.dumps(dataset_json))
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            patch.setenv(variable, str(root / variable))
        # The planner sets this many threads and fails on zero.
        patch.setenv("nnUNet_n_proc_DA", "1")
        _use_threads(patch)
        from nnunetv2.experiment_planning.plan_and_preprocess_api import (
            extract_fingerprints,
            plan_experiments,
            preprocess,
        )

        extract_fingerprints([7], num_processes=1)
        plan_experiments([7])
        preprocess([7], configurations=["3d_fullres"], num_processes=[1])
    return root


@pytest.fixture
def tiny_dataset(_tiny_folders, tmp_path, monkeypatch):
    """nnU-Net's folders with the planned and preprocessed `TINY_DATASET`; results go to a fresh folder."""
    monkeypatch.setenv("nnUNet_raw", str(_tiny_folders / "nnUNet_raw"))
    shutil.copytree(_tiny_folders / "nnUNet_preprocessed", tmp_path / "nnUNet_preprocessed")
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "nnUNet_preprocessed"))
    (tmp_path / "nnUNet_results").mkdir()
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "nnUNet_results"))
    return TINY_DATASET
