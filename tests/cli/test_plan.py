"""The command nnUNetv2_ext_plan."""

from __future__ import annotations

import json

import pytest

from nnunetv2_ext.cli.plan import main


@pytest.fixture
def dataset(nnunet_folders):
    """Dataset004_Flat with a dataset.json, one (unread) case and a fingerprint; returns its preprocessed folder."""
    raw = nnunet_folders / "nnUNet_raw" / "Dataset004_Flat"
    preprocessed = nnunet_folders / "nnUNet_preprocessed" / "Dataset004_Flat"
    raw.mkdir()
    preprocessed.mkdir()
    content = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "a": 1}, "numTraining": 0}
    content |= {"file_ending": ".nii.gz", "dataset": {}}
    (raw / "dataset.json").write_text(json.dumps(content))
    statistics = {"mean": 1.0, "std": 2.0, "percentile_00_5": -3.0, "percentile_99_5": 4.0}
    fingerprint = {"spacings": [[3.0, 1.0, 1.0]], "shapes_after_crop": [[50, 256, 256]]}
    fingerprint |= {"foreground_intensity_properties_per_channel": {"0": statistics}}
    fingerprint |= {"median_relative_size_after_cropping": 1.0}
    (preprocessed / "dataset_fingerprint.json").write_text(json.dumps(fingerprint))
    return preprocessed


def test_writes_plans_and_reports_changes(dataset, capsys):
    options = ["--spacing", "3", "1.5", "1.5", "--patch_size", "32", "96", "90", "--batch_size", "5", "--name", "mine"]
    assert main(["-d", "4", "-t", "stunet_ct", *options]) == 0
    configuration = json.loads((dataset / "mine.json").read_text())["configurations"]["3d_fullres"]
    assert configuration["spacing"] == [3.0, 1.5, 1.5]
    assert configuration["patch_size"] == [32, 96, 96]
    assert configuration["batch_size"] == 5
    captured = capsys.readouterr()
    assert str(dataset / "mine.json") in captured.out
    assert "nnUNetv2_preprocess -d 4 -plans_name mine" in captured.out
    assert "[32, 96, 90] -> [32, 96, 96]" in captured.err


def test_named_after_the_template_and_never_overwritten_unasked(dataset, capsys):
    assert main(["-d", "Dataset004_Flat", "-t", "stunet_ct", "-c", "2d", "3d_fullres", "--quiet"]) == 0
    first = (dataset / "stunet_ct.json").read_text()
    assert list(json.loads(first)["configurations"]) == ["2d", "3d_fullres"]
    assert main(["-d", "4", "-t", "stunet_ct", "--batch_size", "9"]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert (dataset / "stunet_ct.json").read_text() == first
    assert main(["-d", "4", "-t", "stunet_ct", "--batch_size", "9", "--overwrite"]) == 0
    assert json.loads((dataset / "stunet_ct.json").read_text())["configurations"]["3d_fullres"]["batch_size"] == 9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-d", "5", "-t", "stunet_ct"], "Dataset004_Flat"),
        (["-d", "4", "-t", "nonsense"], "stunet_totalsegmentator"),
        (["-d", "4", "-t", "missing.json"], "missing.json"),
        (["-d", "4", "-t", "stunet_ct", "--batch_size", "0"], "at least 1"),
    ],
)
def test_refusals_are_one_sentence(dataset, capsys, arguments, message):
    before = sorted(dataset.iterdir())
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert len(error.strip().splitlines()) == 1
    assert sorted(dataset.iterdir()) == before


def test_missing_environment_variable(dataset, monkeypatch, capsys):
    monkeypatch.delenv("nnUNet_raw")
    assert main(["-d", "4", "-t", "stunet_ct"]) == 2
    assert "nnUNet_raw is not set" in capsys.readouterr().err
