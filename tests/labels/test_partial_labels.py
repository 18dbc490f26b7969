"""`PartialLabels` against the stock LabelManager and against every way to contradict oneself."""

from __future__ import annotations

import copy
from multiprocessing.reduction import ForkingPickler
from types import MappingProxyType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunetv2_ext.labels.partial_labels import PartialLabels, Source
from nnunetv2_ext.utilities.errors import UserError

COLLECTION = {
    "channel_names": {"0": "CT"},
    "labels": {
        "background": 0,
        "A/liver": [1, 2],
        "A/tumour": [2, 2],
        "B/liver": [3, 3],
        "spleen": [4, 5],
        "ignore": 6,
    },
    "regions_class_order": [1, 2, 3, 4],
    "numTraining": 4,
    "file_ending": ".nii.gz",
    "partial_labels": {
        "A": {
            "classes": ["A/liver", "A/tumour", "spleen"],
            "cases": ["A_1", "A_2"],
            "exceptions": {"A_2": ["A/tumour"]},
        },
        "B": {"classes": ["spleen", "B/liver"], "cases": ["B_1", "B_2"]},
    },
}


@pytest.fixture
def collection():
    return copy.deepcopy(COLLECTION)


def test_channels_are_those_of_the_stock_label_manager(collection):
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    partial_labels = PartialLabels.from_dataset_json(collection)
    manager = LabelManager(collection["labels"], collection["regions_class_order"])
    assert manager.has_regions
    assert manager.num_segmentation_heads == len(partial_labels.class_names)
    assert manager.ignore_label == partial_labels.ignore_label == 6
    assert [set(region) for region in manager.foreground_regions] == [
        set(partial_labels.label_values(name)) for name in partial_labels.class_names
    ]
    assert partial_labels.region_table().shape[1] == max(manager.all_labels) + 1


def test_names_sources_and_table(collection):
    partial_labels = PartialLabels.from_dataset_json(collection)
    assert partial_labels.class_names == ("A/liver", "A/tumour", "B/liver", "spleen")
    assert partial_labels.sources["B"].cases == ("B_1", "B_2")
    assert partial_labels.source_of("A_2") == "A"
    assert partial_labels.region_table().astype(int).tolist() == [
        [0, 1, 1, 0, 0, 0],
        [0, 0, 1, 0, 0, 0],
        [0, 0, 0, 1, 0, 0],
        [0, 0, 0, 0, 1, 1],
    ]


def test_a_case_is_annotated_by_its_source_minus_its_exceptions(collection):
    partial_labels = PartialLabels.from_dataset_json(collection)
    assert partial_labels.annotated("A_1").tolist() == [True, True, False, True]
    assert partial_labels.annotated("A_2").tolist() == [True, False, False, True]
    assert partial_labels.annotated("B_1").tolist() == [False, False, True, True]
    assert partial_labels.annotated("A_1").dtype == np.bool_
    partial_labels.annotated("A_1")[:] = False
    assert partial_labels.annotated("A_1").any(), "the caller must not be able to change what is stored"


def test_round_trip(collection):
    partial_labels = PartialLabels.from_dataset_json(collection)
    assert partial_labels.to_json() == collection["partial_labels"]
    assert partial_labels.labels_json() == collection["labels"]
    assert list(partial_labels.labels_json()) == list(collection["labels"])


def test_label_values_of_a_case_must_be_explained_by_its_source(collection):
    partial_labels = PartialLabels.from_dataset_json(collection)
    partial_labels.check_label_values("A_1", [-1, 0, 1, 2, 5, 6])
    with pytest.raises(UserError, match=r"value\(s\) 3, which no class of its source 'A' explains"):
        partial_labels.check_label_values("A_1", np.array([0, 3]))


def test_a_case_of_no_source_is_refused(collection):
    partial_labels = PartialLabels.from_dataset_json(collection)
    for ask in (partial_labels.source_of, partial_labels.annotated):
        with pytest.raises(UserError, match="'C_1' belongs to no source"):
            ask("C_1")


def _set(path, value):
    def change(collection):
        target = collection
        for key in path[:-1]:
            target = target[key]
        target[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("partial_labels"), "Expected a collection"),
        (_set(["partial_labels"], {}), "Expected a collection"),
        (_set(["partial_labels", "B", "classes"], ["spleen", "B/lung"]), "B/lung do not exist in 'labels'"),
        (_set(["partial_labels", "B", "classes"], ["spleen"]), r"No source annotates the class\(es\) B/liver"),
        (_set(["partial_labels", "B", "classes"], ["spleen", "B/liver", "spleen"]), "spleen is there more often"),
        (_set(["partial_labels", "B", "classes"], "B/liver"), "Expected a list"),
        (_set(["partial_labels", "B", "cases"], ["B_1", "A_1"]), r"'A_1' is listed in two sources \(A and B\)"),
        (_set(["partial_labels", "B", "cases"], ["B_1", "B_1"]), "B_1 is there more often"),
        (_set(["partial_labels", "B", "case"], ["B_1"]), "as partial_labels.B.case"),
        (_set(["partial_labels", "B"], ["B_1"]), "an object with classes, cases as partial_labels.B"),
        (_set(["partial_labels", "A", "exceptions"], {"A_9": ["spleen"]}), "A_9 do not exist in 'cases'"),
        (_set(["partial_labels", "A", "exceptions"], {"A_1": ["B/liver"]}), "B/liver do not exist in 'classes of A'"),
        (_set(["partial_labels", "A", "exceptions"], ["A_1"]), "as partial_labels.A.exceptions"),
        (_set(["labels", "B/liver"], 3), r"write a single label value twice, like \[3, 3\]"),
        (_set(["labels", "B/liver"], [3]), "at least two integers"),
        (_set(["labels", "B/liver"], [0, 3]), "at least 1"),
        (_set(["labels", "spleen"], [5, 5]), r"No class explains the label value\(s\) 4"),
        (_set(["labels", "ignore"], 9), "Expected the ignore label to be 6"),
        (_set(["labels", "ignore"], [6, 6]), "Expected an integer as the ignore label"),
        (_set(["labels", "background"], 1), '"background": 0'),
        (_set(["labels"], {"background": 0}), "Expected at least one class"),
        (lambda c: c.pop("regions_class_order"), "for each of the 4 classes, but found none"),
        (_set(["regions_class_order"], [1, 2, 3]), "for each of the 4 classes, but found 3"),
        (_set(["regions_class_order"], [1, 2, 4, 3]), "to paint class 'B/liver'"),
    ],
)
def test_contradictions_are_refused(collection, change, message):
    change(collection)
    with pytest.raises(UserError, match=message):
        PartialLabels.from_dataset_json(collection)


@st.composite
def collections(draw):
    number_of_classes = draw(st.integers(1, 8))
    number_of_values = draw(st.integers(1, 10))
    values = [draw(st.sets(st.integers(1, number_of_values), min_size=1)) for _ in range(number_of_classes)]
    values[-1] |= set(range(1, number_of_values + 1)) - set().union(*values)
    names = [f"class {index}" for index in range(number_of_classes)]
    sources = {}
    for index in range(draw(st.integers(1, 3))):
        classes = names if index == 0 else draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
        cases = [f"s{index}_{number}" for number in range(draw(st.integers(1, 3)))]
        sources[f"s{index}"] = {"classes": classes, "cases": cases}
    regions = {
        name: sorted(region) * (2 if len(region) == 1 else 1) for name, region in zip(names, values, strict=True)
    }
    return {
        "labels": {"background": 0} | regions,
        "regions_class_order": [min(v) for v in values],
        "partial_labels": sources,
    }


@settings(max_examples=50, deadline=None)
@given(collections())
def test_table_row_by_row(dataset_json):
    partial_labels = PartialLabels.from_dataset_json(dataset_json)
    table = partial_labels.region_table()
    for row, name in enumerate(partial_labels.class_names):
        assert {value for value in range(table.shape[1]) if table[row, value]} == set(dataset_json["labels"][name])
    for entry in dataset_json["partial_labels"].values():
        for case in entry["cases"]:
            annotated = partial_labels.annotated(case)
            assert {n for n, a in zip(partial_labels.class_names, annotated, strict=True) if a} == set(entry["classes"])
    assert partial_labels.to_json() == dataset_json["partial_labels"]


def test_sources_travel_to_workers():
    source = Source(("liver",), ("a", "b"), MappingProxyType({"a": ("liver",)}))
    # The bytes are those that processes exchange.
    assert ForkingPickler.loads(ForkingPickler.dumps(source)) == source
