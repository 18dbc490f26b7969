"""Every command and every line of Python on the page runs."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np

from nnunetv2_ext.cli.evaluate import main
from nnunetv2_ext.labels.label_mapping import list_mappings
from nnunetv2_ext.labels.label_order import LabelOrder


def test_the_page_runs(write_map, write_dataset_json, code_in, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    kidney = LabelOrder.read("totalsegmentator_v1").value("kidney_left")
    for folder, labels in (
        ("Dataset007_Organs", {"background": 0, "spleen": 1, "aorta": 2, "liver": 3}),
        ("Dataset020_KiTS21", {"background": 0, "kidneys": 1, "kidney_tumor": 2, "kidney_cyst": 3}),
    ):
        write_dataset_json(tmp_path / "nnUNet_raw" / folder, labels)
        write_map(
            rng.integers(0, 4, (4, 5, 6)).astype(np.uint8), tmp_path / "nnUNet_raw" / folder / "labelsTr/a.nii.gz"
        )
    write_map(rng.choice([0, 1, kidney], (4, 5, 6)).astype(np.uint8), tmp_path / "PREDICTIONS" / "a.nii.gz")
    for folder in ("OTHER_PREDICTIONS/a", "nnUNet_raw/Dataset007_Organs/imagesTr/a_0000"):
        write_map(np.ones((4, 5, 6), dtype=np.uint8), tmp_path / f"{folder}.nii.gz")
    lines = [line for block in code_in("evaluate.md", "bash") for line in block.splitlines()]
    assert len(lines) == 5
    for line in lines:
        program, *arguments = shlex.split(line)
        assert program == "nnUNetv2_ext_evaluate"
        assert main([*arguments[: arguments.index("-np") if "-np" in arguments else None], "-np", "1", "--quiet"]) == 0
    (python,) = code_in("evaluate.md", "python")
    write_dataset_json(tmp_path, {"background": 0, "spleen": 1})
    for folder in ("labelsTr", "predictions"):
        write_map(np.ones((4, 5, 6), dtype=np.uint8), tmp_path / folder / "a.nii.gz")
    exec(python.replace("processes=8", "processes=1"), {})
    assert capsys.readouterr().out == "1.0 ()\n"


def test_the_page_lists_all_mappings():
    page = (Path(__file__).resolve().parents[2] / "docs" / "evaluate.md").read_text(encoding="utf-8")
    assert not [name for name in list_mappings() if f"`{name}`" not in page]
