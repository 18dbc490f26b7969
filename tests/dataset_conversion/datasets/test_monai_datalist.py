"""Any MONAI datalist."""

import pytest

from nnunetv2_ext.labels import LabelOrder


@pytest.fixture
def datalist(miniature):
    order = LabelOrder("mine", {"liver": 1, "spleen": 2})
    for case in "abc":
        miniature.case(f"data/{case}/image.nii.gz", f"data/{case}/label.nii.gz", order)
    entries = [{"image": f"data/{case}/image.nii.gz", "label": f"data/{case}/label.nii.gz"} for case in "ab"]
    content = {
        "labels": {"0": "background", "1": "liver", "2": "spleen"},
        "training": [{**entry, "fold": fold} for fold, entry in enumerate(entries)],
        "testing": [{"image": "data/c/image.nii.gz"}],
    }
    return miniature.text("datalist.json", content)


def test_converts_the_layout(datalist, assert_converts):
    assert_converts("monai_datalist", training=2, test=1, folds=2, licensed=False)


def test_the_commands_of_the_documentation_run(datalist, assert_documented_commands_run):
    assert_documented_commands_run("monai_datalist")
