import json
import subprocess
import sys

import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2_ext.cli.convert_dataset import main


@pytest.fixture
def segthor(tmp_path):
    def save(path, array):
        path.parent.mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(sitk.GetImageFromArray(array), str(path))

    for patient in ("Patient_01", "Patient_02"):
        random = np.random.default_rng(len(patient) + int(patient[-1]))
        label = np.zeros((8, 9, 10), np.uint8)
        label[1:5, 2, 3] = (1, 2, 3, 4)
        save(tmp_path / f"source/train/{patient}/{patient}.nii.gz", random.integers(0, 99, (8, 9, 10)).astype(np.int16))
        save(tmp_path / f"source/train/{patient}/GT.nii.gz", label)
    return tmp_path / "source"


def _run(*arguments):
    return main([str(argument) for argument in arguments])


def test_converts_and_says_so(segthor, nnunet_folders, capsys):
    assert _run("segthor", "-i", segthor, "-d", 11, "-np", 1) == 0
    assert "2 of 2 cases" in capsys.readouterr().out
    content = json.loads((nnunet_folders / "nnUNet_raw/Dataset011_SegTHOR/dataset.json").read_text())
    assert content["numTraining"] == 2
    assert content["labels"]["aorta"] == 4


def test_a_bad_case_is_listed(segthor, nnunet_folders, capsys):
    (segthor / "train/Patient_02/GT.nii.gz").unlink()
    assert _run("segthor", "-i", segthor, "-d", 11, "-np", 1, "--quiet") == 1
    assert "Patient_02: Expected its label at train/Patient_02/GT.nii.gz" in capsys.readouterr().out


def test_a_dry_run_writes_nothing(segthor, nnunet_folders, capsys):
    assert _run("segthor", "-i", segthor, "--dry_run") == 0
    assert "2 complete cases (2 train)" in capsys.readouterr().out
    assert list((nnunet_folders / "nnUNet_raw").iterdir()) == []
    (segthor / "train/Patient_02/GT.nii.gz").unlink()
    assert _run("segthor", "-i", segthor, "--dry_run") == 1
    assert "Patient_02: Expected its label" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("segtor", "-i", "SOURCE", "-d", "1"), "there is no 'segtor'; did you mean segthor"),
        (("xyz", "-i", "SOURCE", "-d", "1"), "there is no 'xyz'; choose one of abdomenatlas_1_0, "),
        (("segthor", "-i", "SOURCE"), "with -d"),
        (("segthor",), "with -i"),
        (("lits", "-i", "SOURCE", "-d", "1"), "which is the layout of lits, but found train"),
        (("segthor", "-i", "SOURCE", "-d", "1000"), "between 1 and 999"),
        (("segthor", "-i", "SOURCE", "-d", "1", "--order", "word"), "has its own files"),
    ],
)
def test_mistakes_are_explained(segthor, nnunet_folders, capsys, arguments, sentence):
    assert _run(*(segthor if argument == "SOURCE" else argument for argument in arguments)) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert "Traceback" not in error


def test_lists_datasets_and_layouts(capsys):
    assert _run("--list") == 0
    assert "totalsegmentator_v2" in capsys.readouterr().out
    assert _run("totalsegmentator_v2", "--list") == 0
    assert "{case}/segmentations/{class}.nii.gz" in capsys.readouterr().out


def test_the_list_needs_no_heavy_imports():
    code = (
        "import sys\nfrom nnunetv2_ext.cli.convert_dataset import main\n"
        "try:\n    main(['--list'])\nfinally:\n"
        "    assert not {'torch', 'nnunetv2', 'SimpleITK', 'scipy'} & set(sys.modules), sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_cases_of_one_patient_stay_in_one_fold(miniature, nnunet_folders):
    miniature.text("order.json", {"name": "mine", "labels": {"liver": 1}})
    for case in [f"p{patient}_visit{visit}" for patient in range(4) for visit in (1, 2)]:
        miniature.case(f"images/{case}.nii.gz", f"labels/{case}.nii.gz", "nih_pancreas_ct")
    order = miniature.root / "order.json"
    arguments = ["label_maps", "-i", miniature.root, "-d", 7, "--order", order, "-np", 1]
    assert _run(*arguments, "--group", "(p.)_visit") == 0
    splits = json.loads((nnunet_folders / "nnUNet_raw/Dataset007_LabelMaps/splits_final.json").read_text("utf-8"))
    assert sorted(case for fold in splits for case in fold["val"]) == [
        f"p{p}_visit{v}" for p in range(4) for v in (1, 2)
    ]
    for fold in splits:
        assert not {case[:2] for case in fold["val"]} & {case[:2] for case in fold["train"]}
    assert _run(*arguments, "--group", "(q.)_visit") == 2
