from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunetv2_ext.labels.label_tree import LabelTree
from nnunetv2_ext.labels.tree_annotation import (
    check_annotation,
    determined_nodes,
    possible_leaves,
    unlabelled_is_possible,
)
from nnunetv2_ext.labels.tree_parents import LabelTreeError

TREE = LabelTree.from_nested(
    {"background": {}, "bones": {"ribs": {"rib_1": {}, "rib_2": {}}, "hip": {}}, "organs": {"liver": {}, "spleen": {}}}
)


def test_bones_and_ribs_teach_bone_but_not_rib():
    annotated = {"bones", "ribs"}
    assert possible_leaves(TREE, "bones", annotated) == {"hip"}
    assert possible_leaves(TREE, "ribs", annotated) == {"rib_1", "rib_2"}
    assert possible_leaves(TREE, None, annotated) == {"background", "liver", "spleen"}


def test_liver_only_teaches_no_liver_elsewhere():
    assert possible_leaves(TREE, None, {"liver"}) == set(TREE.leaves()) - {"liver"}


def test_full_annotation_leaves_one_leaf():
    for leaf in TREE.leaves():
        assert possible_leaves(TREE, leaf, TREE.leaves()) == {leaf}
    assert not unlabelled_is_possible(TREE, TREE.leaves())
    assert unlabelled_is_possible(TREE, ["bones"])


def test_a_label_that_its_source_does_not_annotate_counts_as_no_label():
    assert possible_leaves(TREE, "hip", {"liver"}) == possible_leaves(TREE, None, {"liver"})


def test_parents_of_annotated_children_are_determined():
    assert determined_nodes(TREE, {"rib_1", "rib_2", "hip"}) == {"rib_1", "rib_2", "hip", "ribs", "bones"}
    assert determined_nodes(TREE, {"liver"}) == {"liver"}


def test_empty_label_is_refused():
    with pytest.raises(LabelTreeError, match="'organs' and every part of it"):
        check_annotation(TREE, ["organs", "liver", "spleen"], "A")
    with pytest.raises(LabelTreeError):
        check_annotation(TREE, ["kidney"], "A")
    check_annotation(TREE, ["organs", "liver"], "A")


@given(st.data())
def test_the_labels_of_a_source_split_the_leaves(label_trees, data):
    """Whatever a source annotates, every leaf is possible under exactly one of its labels or under none."""
    tree = data.draw(label_trees)
    annotated = data.draw(st.sets(st.sampled_from(tree.names)))
    parts = [possible_leaves(tree, label, annotated) for label in (*annotated, None)]
    assert sorted(leaf for part in parts for leaf in part) == sorted(tree.leaves())
