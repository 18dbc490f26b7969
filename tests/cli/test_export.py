"""The command nnUNetv2_ext_export."""

from __future__ import annotations

import json

import pytest
import torch

from nnunetv2_ext.cli.export import main


def test_writes_the_network_and_what_goes_with_it(softmax_model, tmp_path, capsys):
    target = tmp_path / "new" / "network.ts"
    assert main(["-m", str(softmax_model), "-o", str(target), "--format", "torchscript", "-f", "0"]) == 0
    assert f"Wrote {target}." in capsys.readouterr().out
    assert sorted(path.name for path in target.parent.iterdir()) == ["network.ts", "network.ts.metadata.json"]
    assert torch.jit.load(target)(torch.zeros(1, 1, 8, 16, 16)).shape == (1, 4, 8, 16, 16)
    assert json.loads((tmp_path / "new" / "network.ts.metadata.json").read_text())


def test_says_how_to_run_the_bundle(softmax_model, tmp_path, capsys):
    pytest.importorskip("monai")
    target = tmp_path / "bundle"
    assert main(["-m", str(softmax_model), "-o", str(target), "--format", "monai_bundle"]) == 0
    printed = capsys.readouterr().out
    assert f"Wrote the bundle {target}. Run it with:" in printed
    command = next(line for line in printed.splitlines() if line.startswith("python -m monai.bundle run"))
    for word in command.split():
        if word.endswith(".json"):
            assert json.loads((tmp_path / word).read_text())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"-m": "nowhere"}, "Expected a model folder at nowhere"),
        ({"-o": "{tmp}/mine"}, "exists already; choose another name or pass --overwrite"),
        ({"-o": "{tmp}/mine/network.ts"}, "Expected a folder for the results"),
        ({"-f": "7"}, "for fold 7"),
        ({"-chk": "best.pth"}, "Expected best.pth"),
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["torchscript", "monai_bundle"])
def test_what_cannot_be_exported_is_said_and_nothing_changes(softmax_model, tmp_path, capsys, change, sentence, kind):
    (tmp_path / "mine").write_text("precious")
    options = {"-m": str(softmax_model), "-o": str(tmp_path / "network"), "--format": kind} | change
    assert main([word.format(tmp=tmp_path) for option in options.items() for word in option]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert "Traceback" not in error
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert (tmp_path / "mine").read_text() == "precious"


@pytest.mark.parametrize(("kind", "ending"), [("torchscript", ".onnx"), ("onnx", ".pt2"), ("torch_export", ".ts")])
def test_a_file_is_not_called_like_one_of_another_format(softmax_model, tmp_path, capsys, kind, ending):
    assert main(["-m", str(softmax_model), "-o", str(tmp_path / f"network{ending}"), "--format", kind]) == 2
    assert f"for --format {kind}, but got {tmp_path / f'network{ending}'}" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
