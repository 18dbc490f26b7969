"""Colours of classes."""

from __future__ import annotations

from nnunetv2_ext.images.colours import display_colours
from nnunetv2_ext.labels import LabelOrder


def test_published_classes_have_their_published_colour_also_in_collections():
    published = LabelOrder.read("totalsegmentator_v2").to_json()["colors"]["spleen"]
    assert display_colours({4: "spleen", 9: "BTCV/spleen"}) == {4: tuple(published), 9: tuple(published)}


def test_unknown_classes_get_colours_that_differ_and_do_not_depend_on_the_others():
    names = {value: f"structure {value}" for value in range(1, 121)}
    colours = display_colours(names)
    assert len(set(colours.values())) == 120
    assert all(0 <= part <= 255 for colour in colours.values() for part in colour)
    assert display_colours({77: "structure 77"})[77] == colours[77]
    for value in range(1, 120):
        distance = sum(abs(a - b) for a, b in zip(colours[value], colours[value + 1], strict=True))
        assert distance > 60, "neighbouring numbers are told apart"
