"""Every command and every line of Python on the page runs."""

from __future__ import annotations

import json
import shlex

from nnunetv2_ext.cli.merge_datasets import main
from nnunetv2_ext.labels.partial_labels import PartialLabels


def test_the_page_runs(make_raw_dataset, tiny_case, code_in, tmp_path, monkeypatch, capsys):
    make_raw_dataset(
        "Dataset003_Liver",
        {"background": 0, "liver": [1, 2], "tumour": [2, 2]},
        {f"liver_{i}": tiny_case(i, [1, 2]) for i in range(3)},
        order=[1, 2],
    )
    organs = {"background": 0, "spleen": 1, "aorta": 2}
    make_raw_dataset("Dataset007_Organs", organs, {f"img{i:04d}": tiny_case(10 + i, [1, 2]) for i in range(3)})
    make_raw_dataset("Dataset009_Spleen", {"background": 0, "spleen": 1}, {"case": tiny_case(20, [1])})
    monkeypatch.chdir(tmp_path)
    (tmp_path / "exceptions.json").write_text('{"Organs/img0001": ["aorta"], "Liver/liver_2": ["tumour"]}')
    lines = [line for block in code_in("merge.md", "bash") for line in block.splitlines()]
    merges = [shlex.split(line)[1:] for line in lines if line.startswith("nnUNetv2_ext_merge_datasets")]
    # The other commands of the page are nnU-Net's own; test_merge.py runs them.
    assert len(merges) == 5
    for arguments in merges:
        without_processes = [a for i, a in enumerate(arguments) if "-np" not in arguments[max(0, i - 1) : i + 1]]
        assert main([*without_processes, "-np", "1", "--quiet"]) == 0
    raw = tmp_path / "nnUNet_raw"
    read = [
        PartialLabels.from_dataset_json(json.loads(f.read_text())) for f in sorted(raw.glob("Dataset10*/*set.json"))
    ]
    assert read[1].class_names == ("Liver/liver", "Liver/lesion", "spleen", "Organs/aorta")
    for partial_labels in read[2:4]:
        annotated = dict(zip(partial_labels.class_names, partial_labels.annotated("Organs_img0001"), strict=True))
        assert not annotated["Organs/aorta"]
    (python,) = code_in("merge.md", "python")
    exec(python, {})
    assert "'Liver/lesion'" in capsys.readouterr().out
