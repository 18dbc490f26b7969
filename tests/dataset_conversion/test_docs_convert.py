"""The pages on conversion show every layout, and the converter that they explain how to write works."""

from pathlib import Path

from nnunetv2_ext.dataset_conversion.raw_dataset import convert_dataset
from nnunetv2_ext.dataset_conversion.registry import converters, description


def test_the_documentation_shows_every_layout():
    text = (Path(__file__).parents[2] / "docs" / "convert.md").read_text()
    for name, converter in converters().items():
        assert f"`{name}`" in text
        block = description(converter).split("::\n\n", 1)[1]
        for line in block.splitlines():
            if line.startswith("    "):
                assert line.strip() in text, (name, line)


def test_the_example_of_the_documentation_converts(miniature, nnunet_folders, code_in, verify_integrity):
    code = code_in("extend.md", "python")[0]
    assert len(code.splitlines()) <= 40
    names = {"__name__": "example"}
    exec(code, names)
    miniature.case("train/P001/image.nii.gz", "train/P001/label.nii.gz", "segthor")
    miniature.case("test/P101/image.nii.gz", None, "segthor")
    folder = nnunet_folders / "nnUNet_raw" / "Dataset123_Mini"
    result = convert_dataset(names["ThoraxChallenge"](miniature.root), folder, progress=False)
    assert [record.split for record in result.converted] == ["train", "test"]
    verify_integrity(folder)
