"""``nnUNetv2_ext_report``."""

from __future__ import annotations

import pytest

from nnunetv2_ext.cli.convert_dataset import main as convert
from nnunetv2_ext.cli.merge_datasets import main as merge
from nnunetv2_ext.cli.report import main


@pytest.fixture
def dataset(make_raw_dataset, tiny_case):
    """Three cases of noise."""
    cases = {name: tiny_case(seed, [1, 2]) for seed, name in enumerate(("a", "b", "c"))}
    return make_raw_dataset("Dataset005_Noise", {"background": 0, "liver": 1, "spleen": 2}, cases)


def test_the_page_goes_into_the_dataset_and_is_not_replaced_unasked(dataset, capsys):
    page = dataset / "dataset_report.html"
    assert main(["5", "-np", "0"]) == 0
    assert "3 cases, 0 of them odd, 0 images more than once" in capsys.readouterr().err
    page.write_text("mine", encoding="utf-8")
    assert main(["5", "-np", "0"]) == 2
    assert page.read_text(encoding="utf-8") == "mine"
    assert main(["5", "-np", "0", "--overwrite"]) == 0
    assert "<h1>Dataset005_Noise</h1>" in page.read_text(encoding="utf-8")


def test_a_folder_is_taken_and_another_one_written(dataset, tmp_path):
    before = sorted(dataset.rglob("*"))
    assert main([str(dataset), "-o", str(tmp_path / "pages"), "-np", "0"]) == 0
    assert [file.name for file in (tmp_path / "pages").iterdir() if not file.name.startswith(".")] == [
        "dataset_report.html"
    ]
    assert sorted(dataset.rglob("*")) == before


def test_bad_cases_are_listed_and_the_others_shown(dataset, capsys):
    (dataset / "labelsTr" / "b.nii.gz").write_bytes(b"no image")
    assert main(["5", "-np", "0"]) == 1
    assert "Could not be read: b: Expected a complete image in" in capsys.readouterr().err
    page = (dataset / "dataset_report.html").read_text(encoding="utf-8")
    assert "<li>b: Expected a complete image in" in page
    assert "<strong>a</strong>" in page
    assert "<strong>b</strong>" not in page


def test_an_unknown_dataset_is_one_sentence(dataset, capsys):
    assert main(["99"]) == 2
    assert "Expected dataset 99 in" in capsys.readouterr().err


def test_conversion_and_merge_offer_the_page_in_their_last_line(miniature, nnunet_folders, capsys):
    miniature.case("images/a.nii.gz", "labels/a.nii.gz", "lits")
    command = ["label_maps", "-i", str(miniature.root), "-d", "12", "--order", "lits", "-np", "1"]
    assert convert(command) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "To look at it: nnUNetv2_ext_report 12"
    assert merge(["12", "-d", "100", "-n", "Both", "-np", "0", "--copy"]) == 0
    assert capsys.readouterr().err.splitlines()[-1] == "To look at it: nnUNetv2_ext_report 100"
    for dataset in ("12", "100"):
        assert main([dataset, "-np", "0"]) == 0
    assert len(list((nnunet_folders / "nnUNet_raw").glob("*/dataset_report.html"))) == 2
