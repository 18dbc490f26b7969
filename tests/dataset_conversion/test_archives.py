"""Names of files as the published archives have them: what a dry run makes of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from nnunetv2_ext.cli.convert_dataset import main

SEEN = sorted((Path(__file__).parents[1] / "data" / "listings").glob("*.txt"))

LITS = "media/nas/01_Datasets/CT/LITS/Training Batch"
TCIA = "TCIA_pancreas_labels-02-05-2017"


def _pairs(folder, *cases):
    return [f"{folder}/{part}{case}.nii.gz" for case in cases for part in ("imagesTr/", "labelsTr/")]


def _kits(folder):
    files = [f"{folder}case_00000/{name}.nii.gz" for name in ("imaging", "segmentation", "aggregated_MAJ_seg")]
    return [*files, f"{folder}case_00210/imaging.nii.gz", f"{folder}case_00210/segmentation.nii.gz"]


def _btcv(folder):
    training = [f"{folder}Training/img/img0001.nii.gz", f"{folder}Training/label/label0001.nii.gz"]
    return [*training, f"{folder}Testing/img/img0061.nii.gz"]


def _verse(mark, subject):
    case = f"{subject}/{subject}_dir-ax"
    return [f"dataset-{mark}/rawdata/{case}_ct.nii.gz", f"dataset-{mark}/derivatives/{case}_seg-vert_msk.nii.gz"]


def _mr(*masks):
    return ["s0001/mri.nii.gz", *(f"s0001/segmentations/{mask}.nii.gz" for mask in masks)]


LISTINGS = {
    "LiTS, unpacked in one folder": (
        "lits",
        [
            *(f"{LITS} 1/{name}-{case}.nii" for case in (0, 27) for name in ("volume", "segmentation")),
            *(f"{LITS} 2/{name}-{case}.nii" for case in (28, 130) for name in ("volume", "segmentation")),
            "LITS-Challenge-Test-Data/test-volume-0.nii",
        ],
        "5 complete cases (4 train, 1 test)",
    ),
    "NIH Pancreas-CT, two images of which do not exist": (
        "nih_pancreas_ct",
        [
            *(f"Pancreas-CT/PANCREAS_{case}/11-24-2015-PANCREAS/Pancreas-1/1-1.dcm" for case in ("0001", "0002")),
            *(f"{TCIA}/label{case}.nii.gz" for case in ("0001", "0002", "0025", "0070")),
        ],
        "2 complete cases (2 train)",
    ),
    "WORD without labels of the test set": (
        "word",
        [*_pairs(".", "word_0002", "word_0003"), "imagesTs/word_0014.nii.gz"],
        "3 complete cases (2 train, 1 test)",
    ),
    "WORD with them": (
        "word",
        [*_pairs(".", "word_0002"), "imagesTs/word_0014.nii.gz", "labelsTs/word_0014.nii.gz"],
        "2 complete cases (1 train, 1 test)",
    ),
    "KiTS19, the repository": ("kits19", _kits("data/")[:4], "2 complete cases (1 train, 1 test)"),
    "KiTS19, its folder of cases": ("kits19", _kits("")[:4], "2 complete cases (1 train, 1 test)"),
    "KiTS21, its folder of cases": ("kits21", _kits("")[:3], "1 complete cases (1 train)"),
    "KiTS23, the repository": ("kits23", _kits("dataset/"), "2 complete cases (2 train)"),
    "KiTS23, its folder of cases": ("kits23", _kits(""), "2 complete cases (2 train)"),
    "BTCV, the folder above RawData": ("btcv_abdomen", _btcv("RawData/"), "2 complete cases (1 train, 1 test)"),
    "BTCV, RawData itself": ("btcv_abdomen", _btcv(""), "2 complete cases (1 train, 1 test)"),
    "VerSe20 beside VerSe19": (
        "verse20",
        [*_verse("verse19training", "sub-verse004"), *_verse("verse20training", "sub-verse500")],
        "1 complete cases (1 train)",
    ),
    "VerSe20, the first names of its archives": (
        "verse20",
        [*_verse("01training", "sub-verse500"), *_verse("02validation", "sub-verse501")],
        "2 complete cases (1 train, 1 val)",
    ),
}


def _dry_run(dataset, files, folder, capsys):
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()
    code = main([dataset, "-i", str(folder), "--dry_run"])
    return code, capsys.readouterr()


@pytest.mark.parametrize(("dataset", "files", "found"), LISTINGS.values(), ids=LISTINGS)
def test_every_case_of_the_archive_is_found(dataset, files, found, tmp_path, capsys):
    code, output = _dry_run(dataset, files, tmp_path, capsys)
    assert (code, found in output.out) == (0, True), output


@pytest.mark.parametrize("file", SEEN, ids=lambda file: file.stem)
def test_names_that_were_seen_are_understood(file, tmp_path, capsys):
    seen, found, *names = file.read_text(encoding="utf-8").splitlines()
    assert seen.startswith("# Seen in: ")
    code, output = _dry_run(file.stem, names, tmp_path, capsys)
    assert (code, found.removeprefix("# Found: ") in output.out) == (0, True), output


def test_a_second_download_is_refused_by_name_and_the_others_go_on(tmp_path, capsys):
    code, output = _dry_run("amos22_ct", _pairs(".", "amos_0001", "amos_0001 (1)", "amos_0004"), tmp_path, capsys)
    assert code == 1
    assert "2 complete cases" in output.out
    assert "'amos_0001 (1)' is a browser's name for a second download" in output.out


def test_the_version_of_totalsegmentator_mr_is_known_by_its_classes(tmp_path, capsys):
    assert _dry_run("totalsegmentator_mr", _mr("spleen", "liver"), tmp_path, capsys)[0] == 0
    code, output = _dry_run("totalsegmentator_mr", _mr("face", "lung_upper_lobe_left"), tmp_path, capsys)
    assert code == 1
    assert "Expected the classes of totalsegmentator_mr" in output.out
    assert "versions 200 and 300" in output.out


BAD_VALUES = {
    "totalsegmentator_v2": (
        ["a/ct.nii.gz", "a/segmentations/liver.nii.gz", "b/ct.nii.gz", "b/segmentations/liver.nii.gz"],
        ("meta.csv", "image_id;split\na;train\nb;training\n"),
        "found 'training'",
    ),
    "saros": (
        [f"{case}/{name}.nii.gz" for case in ("a", "b") for name in ("image", "body-regions")],
        ("Segmentation-Info.csv", "id,split\na,fold-1\nb,fold-9\n"),
        "found 'fold-9'",
    ),
    "gibson_multi_organ": (
        [f"RawData/Training/img/img000{case}.nii.gz" for case in (1, 2)]
        + [f"label_btcv_multiorgan/label000{case}.nii.gz" for case in (1, 2)],
        (
            "cropping.csv",
            "original_id,publisher,extent_left,extent_right,extent_ant,extent_post,extent_inf,extent_sup\n"
            "1,BTCV,0,9,0,9,0,9\n2,BTCV,left,9,0,9,0,9\n",
        ),
        "found 'left'",
    ),
    "monai_datalist": (
        [],
        (
            "list.json",
            '{"labels": {"1": "liver"}, "training": [{"image": "a.nii.gz", "label": "a.nii.gz", "fold": 0},'
            ' {"image": "b.nii.gz", "label": "b.nii.gz", "fold": null}]}',
        ),
        "",
    ),
}


@pytest.mark.parametrize("dataset", BAD_VALUES)
def test_an_odd_value_in_a_table_concerns_its_case_only(dataset, tmp_path, capsys):
    files, (name, content), reason = BAD_VALUES[dataset]
    (tmp_path / name).write_text(content, encoding="utf-8")
    code, output = _dry_run(dataset, files, tmp_path, capsys)
    assert code == (1 if reason else 0), output
    assert ("1 complete cases" if reason else "2 complete cases") in output.out
    assert reason in output.out
