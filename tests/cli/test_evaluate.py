"""The command: files, exit codes, and a quick --help."""

from __future__ import annotations

import json

import numpy as np
import pytest

from nnunetv2_ext.cli.evaluate import main


@pytest.fixture
def folders(tmp_path):
    import SimpleITK

    rng = np.random.default_rng(0)
    labels = {"background": 0, "liver": 1, "spleen": 2}
    (tmp_path / "dataset.json").write_text(json.dumps({"channel_names": {"0": "CT"}, "labels": labels}))
    for folder in ("labelsTr", "pred"):
        (tmp_path / folder).mkdir()
        for case in ("a", "b"):
            array = rng.integers(0, 3, (5, 6, 7)).astype(np.uint8)
            SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array), str(tmp_path / folder / f"{case}.nii.gz"))
    return tmp_path


def test_results_are_written_and_good_news_is_exit_code_0(folders, capsys):
    arguments = [
        "-gt",
        str(folders / "labelsTr"),
        "-pred",
        str(folders / "pred"),
        "-o",
        str(folders / "out"),
        "-np",
        "1",
    ]
    assert main(arguments) == 0
    assert {file.name for file in (folders / "out").iterdir()} == {"summary.json", "metrics.csv", "evaluation.html"}
    assert "Scored 2 cases: mean Dice" in capsys.readouterr().err
    assert main(arguments) == 2
    assert "exists already" in capsys.readouterr().err
    assert main([*arguments, "--overwrite", "--quiet"]) == 0
    assert capsys.readouterr().err == ""


def test_a_bad_case_is_named_and_is_exit_code_1(folders, capsys):
    (folders / "pred" / "b.nii.gz").write_bytes(b"")
    assert main(["-gt", str(folders / "labelsTr"), "-pred", str(folders / "pred"), "-np", "1", "--quiet"]) == 1
    assert "Not scored: " in capsys.readouterr().err
    summary = json.loads((folders / "pred" / "summary.json").read_text())
    assert [case["case"] for case in summary["metric_per_case"]] == ["a"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mapping", "nothing"], "Expected a mapping, but 'nothing'"),
        (["--order", "nothing"], "Expected a label order"),
        (["--pred_order", "amos22", "--order", "nothing"], "Expected a label order"),
    ],
)
def test_a_user_error_is_exit_code_2(folders, arguments, message, capsys):
    folder = [str(folders / "labelsTr"), "-pred", str(folders / "pred")]
    assert main(["-gt", *folder, "-np", "1", "--quiet", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (folders / "pred" / "summary.json").exists()


def test_a_folder_that_cannot_be_written_is_refused_before_the_work(folders, capsys):
    output = folders / "pred" / "a.nii.gz"
    before = output.read_bytes()
    arguments = ["-gt", folders / "labelsTr", "-pred", folders / "pred", "-o", output, "-np", 1]
    assert main([str(argument) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert "Expected a folder for the results" in error
    assert "Evaluating" not in error
    assert output.read_bytes() == before


@pytest.mark.parametrize("wrong", ["-gt", "-pred"])
def test_a_mistyped_folder_is_not_made(folders, wrong, capsys):
    options = {"-gt": folders / "labelsTr", "-pred": folders / "pred"} | {wrong: folders / "typo"}
    assert main([str(word) for option in options.items() for word in option]) == 2
    assert f"but {folders / 'typo'} is none." in capsys.readouterr().err
    assert not (folders / "typo").exists()
