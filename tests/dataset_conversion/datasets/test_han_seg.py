"""HaN-Seg."""

import numpy as np

from nnunetv2_ext.labels import LabelOrder

ORDER = LabelOrder.read("han_seg")


def _write(miniature, case, leave_out=()):
    folder = f"HaN-Seg/set_1/{case}/{case}"
    miniature.save(f"{folder}_IMG_CT.nrrd", miniature.image())
    miniature.save(f"{folder}_IMG_MR_T1.nrrd", miniature.image(), spacing=(1, 1, 5))
    label = miniature.label(ORDER)
    for name, value in ORDER.labels.items():
        if name not in leave_out:
            # The names that the masks have are the aliases.
            miniature.save(f"{folder}_OAR_{ORDER.aliases[name][0]}.seg.nrrd", (label == value).astype(np.uint8))


def test_converts_the_published_layout(miniature, assert_converts):
    _write(miniature, "case_01")
    assert_converts("han_seg", training=1)


def test_a_case_without_an_organ_needs_consent(miniature, convert):
    _write(miniature, "case_01")
    _write(miniature, "case_02", ["pituitary_gland"])
    (failed,) = convert("han_seg").failed
    assert failed.identifier == "case_02"
    assert "pituitary_gland" in failed.findings[-1].message
    assert convert("han_seg", accept=("missing_masks",)).failed == []
