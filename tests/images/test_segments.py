"""What DICOM objects say of classes."""

from __future__ import annotations

import numpy as np
import pytest

from nnunetv2_ext.images.colours import display_colours
from nnunetv2_ext.images.segments import GENERAL, Code, SegmentCodes, segments_of
from nnunetv2_ext.utilities.errors import UserError

LABELS = np.array([[[0, 2, 2], [7, 0, 300]]], np.uint16)


def test_classes_that_occur_are_described_in_the_order_of_their_integers():
    names = {1: "spleen", 2: "kidney_left", 7: "msd_liver/liver_tumor", 300: "nobody knows"}
    found = segments_of(LABELS, names)
    assert [(segment.value, segment.name) for segment in found] == list(names.items())[1:]
    assert [segment.colour for segment in found] == [display_colours(names)[value] for value in (2, 7, 300)]
    kidney, tumour, unknown = (segment.codes for segment in found)
    assert kidney.type == Code("64033007", "Kidney")
    assert kidney.laterality == Code("7771000", "Left")
    assert tumour.type == Code("108369006", "Neoplasm")
    assert tumour.region == Code("10200004", "Liver")
    assert tumour.laterality is None
    assert unknown == GENERAL


def test_an_empty_label_map_has_all_classes():
    found = segments_of(np.zeros((1, 2, 2), np.uint8), {3: "liver", 1: "spleen"})
    assert [segment.value for segment in found] == [1, 3]


def test_codes_of_ones_own_order_come_first():
    own = {"liver": ("49755003 |Morphologically Abnormal Structure|", "52988006 |Lesion|", "", "10200004 |Liver|")}
    (liver,) = segments_of(np.ones((1, 1, 1), np.uint8), {1: "liver"}, own)
    assert liver.codes == SegmentCodes(
        Code("49755003", "Morphologically Abnormal Structure"),
        Code("52988006", "Lesion"),
        None,
        Code("10200004", "Liver"),
    )
    with pytest.raises(UserError, match=r"Expected a code of SNOMED CT such as .* but found 'liver'"):
        segments_of(np.ones((1, 1, 1), np.uint8), {1: "liver"}, {"liver": ("liver", "liver")})


def test_names_fit_into_dicom():
    (segment,) = segments_of(np.ones((1, 1, 1), np.uint8), {1: "a\\b" + "c" * 99})
    assert segment.name == "a/b" + "c" * 61


def test_integers_without_a_name_are_refused():
    with pytest.raises(UserError, match="found none for 2, 7; name the order"):
        segments_of(LABELS, {300: "liver"})
