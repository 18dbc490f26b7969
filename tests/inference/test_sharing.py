"""Several processes that share the cases of a run: on the CPU, where there are no GPUs."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
import torch

from nnunetv2_ext.cli.predict import main
from nnunetv2_ext.inference.parts import find_devices
from nnunetv2_ext.utilities.errors import UserError

# Who worked on which case; and memory that runs out at one of them.
_WATCHED = """
import os
from nnunetv2_ext.utilities import parallel

work = parallel._Job.__call__

def watched(job, item):
    with open(os.environ["CALLS"], "a", encoding="utf-8") as calls:
        calls.write(f"{item} {os.getpid()}\\n")
    if str(item) == "deadly":
        os.kill(os.getpid(), 9)
    return work(job, item)

parallel._Job.__call__ = watched
"""


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """The cases that processes worked on, and their numbers."""
    (tmp_path / "sitecustomize.py").write_text(_WATCHED)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *filter(None, sys.path)]))
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    return lambda: [line.split() for line in (tmp_path / "calls").read_text(encoding="utf-8").splitlines()]


@pytest.mark.skipif(os.name != "posix", reason="ends a process by a signal")
def test_two_processes_predict_what_one_does_and_outlive_what_kills_them(
    softmax_model, make_ct, tmp_path, calls, capsys
):
    images = tmp_path / "images"
    images.mkdir()
    for seed, name in enumerate(("a", "b", "c", "deadly")):
        image = SimpleITK.DICOMOrient(make_ct(size=(20, 18, 9), seed=seed), "RAS" if name == "c" else "LPS")
        SimpleITK.WriteImage(image, str(images / f"{name}.mha"))
    (images / "broken.mha").write_bytes(b"no image")
    flags = ["-i", str(images), "-m", str(softmax_model), "-f", "0", "-device", "cpu", "--quiet", "--statistics"]
    flags += ["-npp", "0", "-nps", "0"]  # one case at a time: only one is lost with its process
    assert main([*flags, "-o", str(tmp_path / "one")]) == 1
    capsys.readouterr()
    assert main([*flags, "-o", str(tmp_path / "two"), "-num_gpus", "2", "--report"]) == 1
    said = capsys.readouterr().err.splitlines()

    worked = calls()
    assert sorted(name for name, _ in worked) == ["a", "b", "broken", "c", "deadly"]
    assert len({process for _, process in worked} - {str(os.getpid())}) >= 2
    report = json.loads((tmp_path / "two" / "report.json").read_text(encoding="utf-8"))
    assert report["device"] == "cpu, cpu"
    assert sorted(report["cases"]) == ["a", "b", "c"]
    assert all(case["seconds"]["network"] > 0 for case in report["cases"].values())
    assert report["stages"]["network"]["peak_memory_mb"] > 0
    assert "ended by SIGKILL" in report["failures"]["deadly"]["reason"]
    assert report["failures"]["broken"]["stage"] == "preparing"
    assert sorted(line.split()[0] for line in said if "failed while" in line) == ["broken", "deadly"]
    assert any("scans of this run lie differently (2 LPS, 1 RAS)" in line for line in said)
    one, two = (
        json.loads((tmp_path / name / "statistics.json").read_text(encoding="utf-8")) for name in ("one", "two")
    )
    assert two == {name: figures for name, figures in one.items() if name != "deadly"}
    for name in "abc":
        first, second = (SimpleITK.ReadImage(str(tmp_path / folder / f"{name}.nii.gz")) for folder in ("one", "two"))
        labels = SimpleITK.GetArrayFromImage(first)
        assert len(np.unique(labels)) > 1
        np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(second), labels)


def test_no_process_is_started_where_nothing_is_left_to_predict(softmax_model, ct_file, tmp_path):
    flags = ["-i", str(ct_file), "-o", str(tmp_path / "out"), "-m", str(softmax_model), "-f", "0", "-device", "cpu"]
    assert main([*flags, "--quiet"]) == 0
    assert main([*flags, "--quiet", "--continue_prediction", "-num_gpus", "2"]) == 0


class TestDevices:
    """Which devices the processes take."""

    @pytest.fixture
    def four_gpus(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)

    def test_the_first_gpus_or_the_cpu(self, four_gpus):
        assert find_devices(None, 2) == find_devices("cuda", 2) == ["cuda:0", "cuda:1"]
        assert find_devices(torch.device("cpu"), 3) == ["cpu"] * 3

    @pytest.mark.parametrize("device", ["cuda:1", "mps"])
    def test_one_device_is_not_several(self, four_gpus, device):
        with pytest.raises(UserError, match=f"-num_gpus 2, which takes the first 2 GPUs, but got {device};"):
            find_devices(device, 2)

    def test_more_than_there_are(self, four_gpus):
        with pytest.raises(UserError, match="Expected 5 GPUs for -num_gpus 5, but torch finds 4;"):
            find_devices(None, 5)

    def test_a_run_refuses_before_it_writes(self, softmax_model, ct_file, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        flags = ["-i", str(ct_file), "-o", str(tmp_path / "out"), "-m", str(softmax_model), "-num_gpus", "2"]
        assert main(flags) == 2
        assert "torch finds none; pass another number, or -device cpu" in capsys.readouterr().err
        assert not Path(tmp_path / "out").exists()
