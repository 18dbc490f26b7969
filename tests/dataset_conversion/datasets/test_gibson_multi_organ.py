"""The multi-organ annotations of Gibson et al."""

import csv
import io

import pytest

from nnunetv2_ext.labels import LabelOrder
from nnunetv2_ext.utilities.errors import UserError


@pytest.fixture
def gibson(miniature):
    """Two images of BTCV and one of NIH Pancreas-CT, all with the same box in cropping.csv."""
    order = LabelOrder.read("gibson_multi_organ")
    rows = io.StringIO()
    names = ["original_id", "publisher", *(f"extent_{side}" for side in ("left", "right", "ant", "post", "inf", "sup"))]
    writer = csv.writer(rows)
    writer.writerow(names)
    for folder, case in (("Training", "0001"), ("Testing", "0061")):
        label = miniature.label(order)
        label[0, 5, 5] = 8  # the aorta is annotated in BTCV images, but not one of the eight classes
        miniature.save(f"RawData/{folder}/img/img{case}.nii.gz", miniature.ct(label), axes="RAS")
        miniature.save(f"label_btcv_multiorgan/label{case}.nii.gz", label, axes="RAS")
        writer.writerow([case, "BTCV", 1, 14, 0, 12, 0, 10])
    miniature.save("RawData/Training/img/img0039.nii.gz", miniature.image())  # nobody annotated this one
    miniature.dicom("Pancreas-CT/PANCREAS_0002/study/series", miniature.ct(miniature.label(order)))
    miniature.save("label_tcia_multiorgan/label0002.nii.gz", miniature.label(order), axes="RAS", origin=(0, 0, 0))
    writer.writerow(["2", "TCIA", 1, 14, 0, 12, 0, 10])
    miniature.text("cropping.csv", rows.getvalue())
    return miniature


def test_converts_the_published_layout(gibson, assert_converts):
    assert_converts("gibson_multi_organ", training=3)


def test_cases_are_cut_to_their_box(gibson, convert):
    result = convert("gibson_multi_organ")
    assert {tuple(record.shape) for record in result.converted} == {(11, 13, 14)}
    kinds = {record.identifier: {finding.kind for finding in record.findings} for record in result.converted}
    assert kinds["btcv_0001"] == {"values_rewritten"}
    assert kinds["tcia_0002"] == {"label_placed"}


def test_a_box_beside_the_annotation_is_refused(gibson, convert):
    table = gibson.root / "cropping.csv"
    table.write_text(table.read_text().replace("0061,BTCV,1,14,0,12,0,10", "0061,BTCV,1,14,9,12,0,10"))
    (failed,) = convert("gibson_multi_organ").failed
    assert failed.identifier == "btcv_0061"
    assert "inside the crop" in failed.findings[-1].message


def test_labels_without_image_are_named_once(gibson, convert):
    gibson.save("label_btcv_multiorgan/label0070.nii.gz", gibson.label("gibson_multi_organ"))
    result = convert("gibson_multi_organ")
    assert [record.identifier for record in result.failed] == ["btcv_0070"]
    assert "Expected an image for the label" in result.failed[0].findings[-1].message
    assert len(result.converted) == 3


def test_a_label_whose_image_does_not_exist_anywhere_is_no_fault(gibson, convert):
    gibson.save("label_tcia_multiorgan/label0025.nii.gz", gibson.label("gibson_multi_organ"))
    result = convert("gibson_multi_organ")
    assert (len(result.converted), result.failed) == (3, [])


def test_the_table_of_boxes_is_needed_with_all_its_columns(gibson, convert):
    table = gibson.root / "cropping.csv"
    table.write_text(table.read_text().replace("extent_sup", "top"))
    with pytest.raises(UserError, match=r"Expected the columns extent_sup in .*cropping\.csv"):
        convert("gibson_multi_organ")
    table.unlink()
    with pytest.raises(UserError, match=r"Expected cropping\.csv of Zenodo record 1169361"):
        convert("gibson_multi_organ")


def test_a_case_without_a_row_is_named_and_left_out(gibson, convert):
    table = gibson.root / "cropping.csv"
    rows = table.read_text().splitlines(keepends=True)
    table.write_text("".join(row for row in rows if not row.startswith("0061")))
    result = convert("gibson_multi_organ")
    assert [record.identifier for record in result.failed] == ["btcv_0061"]
    assert "Expected its row in cropping.csv" in result.failed[0].findings[-1].message
