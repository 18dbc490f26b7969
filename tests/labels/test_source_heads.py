"""Regions of a source as the exclusive classes of a softmax."""

from __future__ import annotations

import itertools

import numpy as np

from nnunetv2_ext.labels.partial_labels import PartialLabels, Source
from nnunetv2_ext.labels.source_heads import source_heads


def _heads(regions, **sources):
    contents = {name: Source(tuple(classes), ()) for name, classes in sources.items()}
    return source_heads(PartialLabels(regions, contents))


def test_an_organ_and_its_tumour_are_what_is_left_of_the_organ_and_the_tumour():
    head = _heads({"A/liver": [1, 2], "A/tumour": [2], "B/spleen": [3]}, A=["A/liver", "A/tumour"], B=["B/spleen"])
    assert head["A"].values == ((1,), (2,))
    assert head["A"].labels == {"background": 0, "A/liver": 1, "A/tumour": 2}
    assert head["B"].labels == {"background": 0, "B/spleen": 1}


def test_values_that_a_source_does_not_tell_apart_are_one_output():
    head = _heads({"liver": [1, 2], "tumour": [2]}, A=["liver", "tumour"], B=["liver"])
    assert head["B"].values == ((1, 2),)
    assert head["B"].outputs == 2


def test_classes_that_overlap_otherwise_have_an_output_for_what_they_share():
    head = _heads({"a": [1, 3], "b": [2, 3]}, A=["a", "b"])["A"]
    assert head.values == ((1,), (2,), (3,))
    assert set(head.labels.values()) == {0, 1, 2, 3}
    assert "a+b" in head.labels


def test_outputs_paint_what_classes_over_each_other_paint():
    regions = {"a": [1, 2, 3], "b": [2, 3], "c": [3, 4]}
    head = _heads(regions, A=list(regions))["A"]
    integers = {"a": 5, "b": 6, "c": 7}
    for wanted in itertools.chain.from_iterable(itertools.combinations(integers, n) for n in range(4)):
        painted = head.painted({name: integers[name] for name in wanted})
        for output, values in enumerate(head.values, 1):
            label_map = np.array([0])
            for name in wanted:  # in the order of the classes
                if values[0] in regions[name]:
                    label_map[0] = integers[name]
            assert painted[output] == label_map[0]
        assert painted[0] == 0
