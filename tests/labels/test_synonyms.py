from __future__ import annotations

import pytest

from nnunetv2_ext.labels.label_order import LabelOrder
from nnunetv2_ext.labels.synonyms import synonym
from nnunetv2_ext.resources import list_resources


@pytest.mark.parametrize(
    ("name", "among", "expected"),
    [
        ("right kidney", ["kidney_left", "kidney_right"], "kidney_right"),
        ("Kidney-Left", ["left_kidney", "right_kidney"], "left_kidney"),
        ("gall bladder", ["liver", "gallbladder"], "gallbladder"),
        ("liver", ["Liver"], "Liver"),
        ("kidney", ["kidney_left", "kidney_right"], None),
        ("no such organ", ["liver", "spleen"], None),
        ("right_kidney", ["msd/kidney_right"], None),
        ("right_kidney", ["kidney_right", "Kidney right"], None),
    ],
)
def test_the_same_structure_under_another_name(name, among, expected):
    assert synonym(name, among) == expected


def test_no_class_of_an_order_is_another_of_the_same_order():
    for name in list_resources("label_orders"):
        order = LabelOrder.read(name)
        for own in order.labels:
            others = [other for other in order.labels if other != own]
            assert synonym(own, others) is None, (name, own)
