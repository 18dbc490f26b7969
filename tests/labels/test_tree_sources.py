from __future__ import annotations

import pytest

from nnunetv2_ext.labels.label_tree import LabelTree
from nnunetv2_ext.labels.tree_parents import LabelTreeError
from nnunetv2_ext.labels.tree_sources import TreeSources
from nnunetv2_ext.utilities.errors import UserError

TREE = LabelTree.from_nested({"background": {}, "body": {"bones": {"rib": {}, "hip": {}}, "rest": {}}})


def dataset_json(**sources):
    section = {name: {"classes": classes, "cases": [f"{name}_1"]} for name, classes in sources.items()}
    return {
        "labels": {**TREE.to_labels(), "ignore": len(TREE)},
        "label_tree": TREE.to_nested(),
        **({"partial_labels": section} if section else {}),
    }


def chosen(mask):
    return {name for name, is_chosen in zip(TREE.names, mask, strict=True) if is_chosen}


def test_says_which_nodes_a_case_annotates_and_which_it_determines():
    sources = TreeSources.from_dataset_json(dataset_json(A=["bones"], B=["rib", "hip", "background"]))
    assert chosen(sources.annotated("A_1")) == {"bones"}
    assert chosen(sources.annotated("B_1")) == {"rib", "hip", "background"}
    assert chosen(sources.determined().annotated("B_1")) == {"rib", "hip", "bones"}
    assert sources.determined().source_of("A_1") == "A"
    assert chosen(sources.region_table()[TREE.value("bones")]) == {"bones", "rib", "hip"}
    assert sources.labels_json() == dataset_json()["labels"]


def test_without_sources_every_leaf_is_annotated():
    sources = TreeSources.from_dataset_json(dataset_json())
    assert chosen(sources.annotated("any case")) == set(TREE.leaves())


def test_contradictions_are_refused():
    with pytest.raises(LabelTreeError, match="'bones'"):
        TreeSources.from_dataset_json(dataset_json(A=["bones", "rib", "hip"]))
    with pytest.raises(UserError, match="leg"):
        TreeSources.from_dataset_json(dataset_json(A=["leg"]))
    with pytest.raises(UserError, match="ignore label to be 6"):
        TreeSources(TREE, {}, ignore_label=9)
    with pytest.raises(UserError, match="belongs to no source"):
        TreeSources.from_dataset_json(dataset_json(A=["bones"])).annotated("B_1")


def test_label_values_are_checked():
    sources = TreeSources.from_dataset_json(dataset_json(A=["bones"], B=list(TREE.leaves())[1:]))
    sources.check_label_values("A_1", [-1, 0, TREE.value("bones"), len(TREE)])
    with pytest.raises(UserError, match=r"value\(s\) 3"):
        sources.check_label_values("A_1", [TREE.value("rib")])
    sources.check_label_values("B_1", [0, TREE.value("rib")])
    everything = TreeSources.from_dataset_json(dataset_json(A=["body", "background"]))
    everything.check_label_values("A_1", [0, 1])
