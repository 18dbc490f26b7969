"""SAROS: body regions and body parts, annotated on some of the slices."""

import pytest

from nnunetv2_ext.labels import LabelOrder


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
