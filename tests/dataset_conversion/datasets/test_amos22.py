"""AMOS 2022: CT, and MR from case 507 on."""

import pytest


@pytest.mark.parametrize(("name", "first", "of_the_other"), [("amos22_ct", 1, 600), ("amos22_mr", 507, 400)])
def test_converts_the_published_layout(name, first, of_the_other, miniature, assert_converts):
    for part, case in (("Tr", first), ("Va", first + 1), ("Tr", of_the_other)):
        miniature.case(f"images{part}/amos_{case:04d}.nii.gz", f"labels{part}/amos_{case:04d}.nii.gz", "amos22")
    miniature.case(f"imagesTs/amos_{first + 2:04d}.nii.gz", None, "amos22")
    assert_converts(name, training=2, test=1, folds=1)
