"""The command: options in, collection out, exit codes."""

from __future__ import annotations

import json

import numpy as np
import pytest

from nnunetv2_ext.cli.merge_datasets import main


@pytest.fixture
def two_sources(nnunet_folders):
    import SimpleITK

    rng = np.random.default_rng(0)
    for number, name, labels in ((3, "A", {"liver": 1, "spleen": 2}), (4, "B", {"spleen": 1})):
        folder = nnunet_folders / "nnUNet_raw" / f"Dataset{number:03d}_{name}"
        for part in ("imagesTr", "labelsTr"):
            (folder / part).mkdir(parents=True)
        for case in ("x", "y"):
            for file in (f"imagesTr/{case}_0000", f"labelsTr/{case}"):
                array = rng.integers(0, len(labels) + 1, (4, 5, 6)).astype(np.uint8)
                SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array), str(folder / f"{file}.nii.gz"))
        (folder / "dataset.json").write_text(
            json.dumps(
                {
                    "channel_names": {"0": "CT"},
                    "labels": {"background": 0, **labels},
                    "numTraining": 2,
                    "file_ending": ".nii.gz",
                }
            )
        )
    return nnunet_folders / "nnUNet_raw"


def test_options_reach_the_merge(two_sources, tmp_path, capsys):
    exceptions = tmp_path / "exceptions.json"
    exceptions.write_text(json.dumps({"A/x": ["spleen"], "A/y": ["liver"]}))
    arguments = ["3", "Other=4", "-d", "50", "-n", "Both", "-np", "1", "--share", "spleen=A/spleen,Other/spleen"]
    arguments += ["--rename", "A/liver=A/hepar", "--exception", "A/y=spleen", "--exceptions", str(exceptions)]
    assert main(arguments) == 0
    dataset_json = json.loads((two_sources / "Dataset050_Both" / "dataset.json").read_text())
    assert dataset_json["labels"] == {"background": 0, "A/hepar": [1, 1], "spleen": [2, 3]}
    assert dataset_json["partial_labels"] == {
        "A": {
            "classes": ["A/hepar", "spleen"],
            "cases": ["A_x", "A_y"],
            "exceptions": {"A_x": ["spleen"], "A_y": ["spleen"]},
        },
        "Other": {"classes": ["spleen"], "cases": ["Other_x", "Other_y"]},
    }
    assert "Merged 2 sources, 4 cases and 2 classes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["3", "5"], "Expected dataset 5 in"),
        (["3", "4", "--share", "spleen"], "Expected --share NAME=VALUE, but got 'spleen'"),
        (["3", "--share", "a=A/liver", "--share", "a=A/spleen"], "--share names 'a' twice"),
        (["3", "--exception", "A/x=,"], "Expected --exception NAME=VALUE"),
        (["3", "."], "Expected an nnU-Net raw dataset in the folder ., but it has no dataset.json"),
        (["3", "--exceptions", "nowhere.json"], "Expected the file nowhere.json"),
    ],
)
def test_a_user_error_is_one_sentence_and_exit_code_2(two_sources, arguments, message, capsys):
    assert main([*arguments, "-d", "50", "-n", "Both", "--quiet", "-np", "1"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1


@pytest.mark.parametrize("content", ['["A/x"]', '{"A/x": "liver"}', '{"A/x": [1]}'])
def test_exceptions_of_another_form_are_refused(two_sources, tmp_path, content, capsys):
    (tmp_path / "exceptions.json").write_text(content)
    arguments = ["3", "4", "-d", "50", "-n", "Both", "--exceptions", str(tmp_path / "exceptions.json")]
    assert main(arguments) == 2
    assert "exceptions.json, but found" in capsys.readouterr().err
    assert not (two_sources / "Dataset050_Both").exists()
