"""Which label maps are made of a prediction, and what their integers mean."""

from __future__ import annotations

import numpy as np
import pytest

from nnunetv2_ext.inference.deciding.outputs import OutputMap, plan_outputs
from nnunetv2_ext.utilities.errors import UserError

CLASSES = ("A/liver", "A/tumour", "B/spleen", "A/kidney")
PAINTED = {"A/liver": 1, "A/tumour": 2, "B/spleen": 3, "A/kidney": 4}
COLLECTION = {
    "labels": {"background": 0, "A/liver": [1, 2], "A/tumour": [2, 2], "B/spleen": [3, 3], "A/kidney": [4, 4]},
    "regions_class_order": [1, 2, 3, 4],
    "partial_labels": {
        "B": {"classes": ["B/spleen"], "cases": ["B_1"]},
        "A": {"classes": ["A/kidney", "A/liver", "A/tumour"], "cases": ["A_1"]},
    },
}


def _plan(kind="merged", classes=None, dataset=COLLECTION, has_regions=True):
    return plan_outputs(dataset, CLASSES, PAINTED, has_regions=has_regions, kind=kind, classes=classes)


def test_merged_paints_every_head_with_its_integer():
    plan = _plan()
    assert plan.channels is None
    assert plan.maps == (
        OutputMap("", {1: "A/liver", 2: "A/tumour", 3: "B/spleen", 4: "A/kidney"}, _pairs(1, 2, 3, 4)),
    )


def _pairs(*values):
    return tuple(enumerate(values))


def test_unwanted_heads_of_region_models_are_not_computed_and_integers_stay():
    plan = _plan(classes=["A/kidney", "A/tumour"])
    assert plan.channels == (1, 3)
    assert plan.maps[0].names == {2: "A/tumour", 4: "A/kidney"}
    assert plan.maps[0].paint == ((0, 2), (1, 4))


def test_softmax_models_compute_all_heads_and_filter():
    labels = {"background": 0, "x": 1, "y": 2, "z": 3}
    plan = plan_outputs({"labels": labels}, tuple(labels), {"x": 1, "y": 2, "z": 3}, has_regions=False, classes=["z"])
    assert plan.channels is None
    np.testing.assert_array_equal(plan.maps[0].table(4), [0, 0, 0, 3])


def test_each_source_counts_its_own_classes_from_one_in_its_own_order():
    plan = _plan("per_source")
    assert [(output.name, output.names) for output in plan.maps] == [
        ("B", {1: "B/spleen"}),
        ("A", {1: "A/kidney", 2: "A/liver", 3: "A/tumour"}),
    ]
    # Painted in the order of the heads, so that the tumour stays on top of the liver.
    assert plan.maps[1].paint == ((0, 2), (1, 3), (3, 1))


def test_sources_without_a_wanted_class_get_no_map_and_numbers_do_not_move():
    plan = _plan("per_source", classes=["A/tumour"])
    assert [(output.name, output.names, output.paint) for output in plan.maps] == [("A", {3: "A/tumour"}, ((0, 3),))]


def test_paths():
    merged, per_source, per_class = _plan(), _plan("per_source"), _plan("per_class")
    assert str(merged.path_of("case", merged.maps[0], ".nii.gz")) == "case.nii.gz"
    assert str(per_source.path_of("case", per_source.maps[0], ".nii.gz")) == "B/case.nii.gz"
    assert str(per_class.path_of("case", per_class.maps[1], ".nrrd")) == "case/A/tumour.nrrd"


def test_names_cannot_leave_the_output_folder():
    names = {"../../etc/passwd": 1, "/abs": 2, "a b:c": 3}
    plan = plan_outputs({"labels": {}}, tuple(names), names, has_regions=True, kind="per_class")
    for output in plan.maps:
        path = plan.path_of("case", output, ".nii.gz")
        assert not path.is_absolute()
        assert ".." not in path.parts
        assert path.parts[0] == "case"


def test_names_that_fall_together_are_refused():
    names = {"a b": 1, "a:b": 2}
    with pytest.raises(UserError, match="same file name"):
        plan_outputs({"labels": {}}, tuple(names), names, has_regions=True, kind="per_class")


def test_unknown_classes_kinds_and_missing_sources_are_refused():
    with pytest.raises(UserError, match=r"A/liver.*but got heart"):
        _plan(classes=["heart", "A/liver"])
    with pytest.raises(UserError, match="merged, per_source, per_class"):
        _plan("all")
    with pytest.raises(UserError, match="partial_labels"):
        _plan("per_source", dataset={"labels": COLLECTION["labels"]})
