from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest

from nnunetv2_ext.cli import finetune, train
from nnunetv2_ext.cli._command import make_parser
from nnunetv2_ext.cli._training_arguments import add_option_arguments, options_from
from nnunetv2_ext.training.options import TrainingOptions


def test_every_option_has_a_flag():
    parser = make_parser("test", "test")
    add_option_arguments(parser)
    given: dict[str, Any] = {
        "num_epochs": 3, "initial_lr": 0.5, "weight_decay": 0.25, "batch_size": 4, "iterations_per_epoch": 5,
        "val_iterations_per_epoch": 6, "oversample_foreground": 0.75, "warmup_heads": 0, "warmup_network": 8,
        "save_every": 9, "seed": 10, "num_workers": 0, "optimizer": "adamw", "layer_decay": 0.75,
        "grad_accumulation": 2, "precision": "bfloat16", "ema": 0.99, "freeze": "encoder", "freeze_epochs": 3,
        "max_hours": 1.5, "case_weights": "weights.json"
    }  # fmt: skip
    words = [text for name, value in given.items() for text in (f"--{name}", str(value))]
    arguments = parser.parse_args(
        [
            *words,
            "--no-deep_supervision",
            "--no_mirroring",
            "--mirror_pairs",
            "--tensorboard",
            "--activation_checkpointing",
        ]
    )
    given |= {"deep_supervision": False, "mirroring": False}
    given |= dict.fromkeys(("mirror_pairs", "tensorboard", "activation_checkpointing"), True)
    assert given.keys() == {option.name for option in dataclasses.fields(TrainingOptions)}
    assert options_from(arguments) == TrainingOptions(**given)
    assert options_from(parser.parse_args([])).given() == {}


@pytest.mark.parametrize("main", [train.main, finetune.main])
@pytest.mark.parametrize("flags", [["x"], ["1", "3d_fullres", "first"], ["1", "3d_fullres", "0", "--num_epochs", "0"]])
def test_unusable_arguments_end_with_code_2(main, flags, capsys):
    with pytest.raises(SystemExit) as end:
        main(flags)
    assert end.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_missing_environment_variables(monkeypatch, capsys, tmp_path):
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.delenv(variable, raising=False)
    assert train.main(["1", "3d_fullres", "0", "-device", "cpu"]) == 2
    assert "nnUNet_results is not set" in capsys.readouterr().err
    assert finetune.main(["1", "3d_fullres", "0", "-device", "cpu", "-pretrained_weights", "x"]) == 2
    assert "nnUNet_results is not set" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "Expected"), (b"This is not a checkpoint", "checkpoint")],
    ids=["missing", "not a checkpoint"],
)
def test_unusable_checkpoints_leave_nothing_behind(tiny_dataset, tmp_path, capsys, content, message):
    file = tmp_path / "weights.pth"
    if content is not None:
        file.write_bytes(content)
    before = sorted(Path(os.environ["nnUNet_preprocessed"]).rglob("*"))
    assert finetune.main(["7", "3d_fullres", "0", "-device", "cpu", "-pretrained_weights", str(file)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert sorted(Path(os.environ["nnUNet_preprocessed"]).rglob("*")) == before
    assert not any(Path(os.environ["nnUNet_results"]).iterdir())
