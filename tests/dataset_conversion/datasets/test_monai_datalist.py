"""Any MONAI datalist."""

import json

import pytest

from nnunetv2_ext.dataset_conversion.registry import datasets
from nnunetv2_ext.labels import LabelOrder
from nnunetv2_ext.utilities.errors import UserError


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


def test_the_file_itself_may_be_named_where_there_are_several(datalist, miniature, convert):
    miniature.text("other.json", {})
    with pytest.raises(UserError, match=r"one JSON file in .*, but found datalist\.json, other\.json; name the file"):
        convert("monai_datalist")
    assert len(datasets()["monai_datalist"].open(datalist).cases()) == 3


def test_an_order_outranks_the_names_in_the_file(datalist, convert, raw_folder, tmp_path):
    order = tmp_path / "order.json"
    order.write_text(json.dumps(LabelOrder("mine", {"Leber": 1, "Milz": 2}).to_json()))
    convert("monai_datalist", order=str(order))
    assert json.loads((raw_folder / "dataset.json").read_text())["labels"] == {"background": 0, "Leber": 1, "Milz": 2}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"training": None, "testing": None}, 'Expected a MONAI datalist with a list "training"'),
        ({"labels": None}, 'Expected "labels" in .*name a label order with --order'),
        ({"training": [{"label": "data/a/label.nii.gz"}]}, r"as training\[0\]\.image in .*found no such entry"),
    ],
    ids=["no list", "no names", "no image"],
)
def test_files_of_another_form_are_refused(change, sentence, datalist, convert):
    content = json.loads(datalist.read_text()) | change
    datalist.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    with pytest.raises(UserError, match=sentence):
        convert("monai_datalist")


def test_a_training_image_without_label_is_named(datalist, convert):
    content = json.loads(datalist.read_text())
    del content["training"][0]["label"]
    datalist.write_text(json.dumps(content))
    (failed,) = convert("monai_datalist").failed
    assert failed.findings[-1].message == 'Expected "label" for data/a/image.nii.gz in training.'


def test_patterns_are_refused_because_the_file_names_its_images(datalist, convert):
    with pytest.raises(UserError, match="Expected no --image with monai_datalist"):
        convert("monai_datalist", image="{case}.nii.gz")
