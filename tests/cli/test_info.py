"""The command nnUNetv2_ext_info."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from nnunetv2_ext.cli.info import main
from nnunetv2_ext.resources import list_resources


@pytest.mark.parametrize("topic", ["plans", "label_orders"])
def test_lists_every_entry_with_a_description(topic, capsys):
    assert main([topic]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list_resources(topic)
    assert all(len(line.split()) > 3 for line in lines)


def test_lists_trainers(capsys):
    assert main(["trainers"]) == 0
    rows = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert ["STUNetTrainer_small_ft", "STU-Net S, fine-tuning."] in rows


def test_overview_names_everything(capsys):
    assert main([]) == 0
    output = capsys.readouterr().out
    for name in ("STUNetTrainer_small", "stunet_ct", "totalsegmentator_v2"):
        assert name in output


def test_a_dataset_comes_with_what_is_known_of_it(capsys):
    assert main(["datasets"]) == 0
    assert "nih_pancreas_ct" in capsys.readouterr().out
    assert main(["datasets", "nih_pancreas_ct"]) == 0
    output = capsys.readouterr().out
    assert "Pancreas-CT/PANCREAS_{case}   TCIA_pancreas_labels-*/label{case}.nii.gz" in output
    assert "- licence: CC BY 3.0" in output
    assert main(["datasets", "nih"]) == 2
    assert "there is no 'nih'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "place", "value"),
    [
        (["label_orders", "kits19"], ("labels", "kidney_tumor"), 2),
        (["plans", "stunet_ct"], ("configurations", "3d_fullres", "batch_size"), 2),
        (["datasets", "nih_pancreas_ct"], ("training cases",), 80),
        (["label_orders"], ("kits19",), "2 classes. KiTS19: kidneys and kidney tumours in CT."),
        (["trainers"], ("STUNetTrainer_small_ft",), "STU-Net S, fine-tuning."),
        (["tree", "salt"], ("background",), {}),
        ([], ("plans", 0), list_resources("plans")[0]),
    ],
)
def test_everything_is_there_as_json_too(arguments, place, value, capsys):
    for words in ([*arguments, "--json"], ["--json", *arguments]):
        assert main(words) == 0
        content = json.loads(capsys.readouterr().out)
        for name in place:
            content = content[name]
        assert content == value


def test_a_label_order_and_a_template_are_printed(capsys):
    assert main(["label_orders", "kits19"]) == 0
    output = capsys.readouterr().out.splitlines()
    assert "  kidney_tumor: 2" in output
    assert "licence: CC BY-NC-SA 4.0" in output
    assert main(["plans", "stunet_ct"]) == 0
    assert "    patch_size: 128, 128, 128" in capsys.readouterr().out.splitlines()
    assert main(["plans", "nothing"]) == 2
    assert "Expected one of " in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["trainers"], ["plans"], ["label_orders"], ["datasets"], ["--help"]])
def test_lists_need_no_heavy_imports(arguments):
    code = (
        "import sys; from nnunetv2_ext.cli.info import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'nnunetv2', 'numpy', 'SimpleITK'} & set(sys.modules)\nassert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_broken_set_up_gives_exit_code_1(nnunet_folders, monkeypatch, capsys):
    monkeypatch.delenv("nnUNet_results")
    monkeypatch.setenv("nnUNet_extTrainer", "")
    assert main(["environment"]) == 1
    output = capsys.readouterr().out
    assert "!!  nnUNet_results" in output
    assert "!!  trainer lookup" in output
    assert output.rstrip().endswith("2 of these have to be mended (marked !!).")


@pytest.mark.slow
def test_good_set_up_gives_exit_code_0(nnunet_folders, capsys):
    assert main(["environment"]) == 0
    output = capsys.readouterr().out
    assert "The set-up works." in output
    assert "!!" not in output


def test_reader_that_leaves_early():
    pipeline = f"{sys.executable} -c 'from nnunetv2_ext.cli.info import main; main([\"label_orders\"])' | head -1"
    result = subprocess.run(["bash", "-c", pipeline], capture_output=True, encoding="utf-8", check=True)
    assert result.stderr == ""
