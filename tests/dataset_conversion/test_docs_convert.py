"""The page on conversion is in step with the table of datasets, and the example of how to add one works."""

from pathlib import Path
from typing import Any

from nnunetv2_ext.dataset_conversion.raw_dataset import convert_dataset
from nnunetv2_ext.dataset_conversion.registry import datasets, page


def test_the_documentation_has_a_section_per_layout():
    text = (Path(__file__).parents[2] / "docs" / "convert.md").read_text(encoding="utf-8")
    written = text.partition("## Datasets\n\n")[2]
    assert written == page(datasets().values()) + "\n", "run scripts/write_datasets_page.py"


def test_the_example_of_the_documentation_converts(miniature, nnunet_folders, code_in, verify_integrity):
    code = code_in("extend.md", "python")[0]
    assert len(code.splitlines()) <= 40
    names: dict[str, Any] = {"__name__": "example"}
    exec(code, names)
    miniature.case("train/P001/image.nii.gz", "train/P001/label.nii.gz", "segthor")
    miniature.case("test/P101/image.nii.gz", None, "segthor")
    folder = nnunet_folders / "nnUNet_raw" / "Dataset123_Mini"
    result = convert_dataset(names["entry"].open(miniature.root), folder, progress=False)
    assert [record.split for record in result.converted] == ["train", "test"]
    verify_integrity(folder)
