"""SAROS: body regions and body parts, annotated on some of the slices."""

import pytest

from nnunetv2_ext.labels import LabelOrder
from nnunetv2_ext.utilities.errors import UserError


@pytest.mark.parametrize(("name", "file"), [("saros", "body-regions"), ("saros_body_parts", "body-parts")])
def test_converts_the_published_layout(name, file, miniature, assert_converts):
    order = LabelOrder.read(name)
    rows = ["id,patient_id,split"]
    for case, split in (("case_000", "fold-1"), ("case_001", "fold-2"), ("case_002", "test")):
        label = miniature.label(order)
        label[1::2] = 255
        miniature.save(f"{case}/image.nii.gz", miniature.image())
        miniature.save(f"{case}/{file}.nii.gz", label)
        rows.append(f"{case},x,{split}")
    miniature.text("Segmentation-Info_09-29-2023.csv", "\n".join(rows) + "\n")
    assert_converts(name, training=2, test=1, folds=2, annotated=lambda z: z % 2 == 0)


@pytest.mark.parametrize(
    ("table", "found"),
    [
        ("id,split\ncase_000,fold-6\n", "Expected one of test, fold-1, .* in .*, but found 'fold-6'"),
        ("case,split\ncase_000,fold-1\n", "Expected the columns id in .*, but found 'case', 'split'"),
    ],
    ids=["sixth fold", "other columns"],
)
def test_a_table_of_another_form_is_refused(table, found, miniature, convert):
    miniature.save("case_000/image.nii.gz", miniature.image())
    miniature.save("case_000/body-regions.nii.gz", miniature.label("saros"))
    miniature.text("Segmentation-Info_09-29-2023.csv", table)
    with pytest.raises(UserError, match=found):
        convert("saros")
