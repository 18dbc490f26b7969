from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunetv2_ext.labels.label_tree import LabelTree
from nnunetv2_ext.labels.tree_parents import LabelTreeError
from nnunetv2_ext.resources import resource_folder
from nnunetv2_ext.utilities.errors import UserError

NESTED = {"background": {}, "body": {"bones": {"rib": {}, "hip": {}}, "organs": {"liver": {}, "spleen": {}}}}
SHIPPED = sorted(file.stem for file in (resource_folder("label_orders") / "trees").glob("*.json"))


@pytest.fixture
def tree() -> LabelTree:
    return LabelTree.from_nested(NESTED)


def test_numbers_nodes_from_top_to_bottom(tree):
    assert tree.names == ("background", "body", "bones", "rib", "hip", "organs", "liver", "spleen")
    assert tree.to_nested() == NESTED
    assert LabelTree.from_nested(tree.to_nested(), tree.to_labels()) == tree


def test_queries(tree):
    assert tree.path("hip") == ("body", "bones", "hip")
    assert tree.ancestors("hip") == ("body", "bones")
    assert tree.descendants("body") == ("bones", "rib", "hip", "organs", "liver", "spleen")
    assert tree.siblings("bones") == ("organs",)
    assert tree.leaves("body") == ("rib", "hip", "liver", "spleen")
    assert tree.leaves("rib") == ("rib",)
    assert tree.inner_nodes == ("body", "bones", "organs")
    assert tree.parent_values().tolist() == [-1, -1, 1, 2, 2, 1, 5, 5]
    assert "hip" in tree
    assert "leg" not in tree


def test_levels_and_nodes(tree):
    assert tree.at_level(1).tolist() == [0, 1, 1, 1, 1, 1, 1, 1]
    assert tree.at_level(2).tolist() == [0, 1, 2, 2, 2, 5, 5, 5]
    assert tree.at_level(3).tolist() == list(range(8))
    assert tree.at_nodes(["body", "bones"]).tolist() == [0, 1, 2, 2, 2, 1, 1, 1]
    with pytest.raises(UserError, match="at least 1"):
        tree.at_level(0)


@pytest.mark.parametrize(
    ("parents", "error"),
    [
        ({"a": "b", "b": "a", "c": None, "d": None}, LabelTreeError),
        ({"a": "a", "c": None, "d": None}, LabelTreeError),
        ({"a": None, "b": "nowhere"}, LabelTreeError),
        ({"a": None, " ": None}, LabelTreeError),
        ({"a": None, "b": None, "c": "b"}, LabelTreeError),
        ({"a": None}, LabelTreeError),
    ],
)
def test_refuses_contradictions(parents, error):
    with pytest.raises(error):
        LabelTree(parents)


def test_refuses_contradictions_in_nested_form():
    with pytest.raises(LabelTreeError, match="'rib'"):
        LabelTree.from_nested({"a": {"rib": {}, "x": {}}, "b": {"rib": {}, "y": {}}})
    with pytest.raises(LabelTreeError, match="a > b > a"):
        LabelTree.from_nested({"a": {"b": {"a": {}, "c": {}}, "d": {}}, "e": {}})
    with pytest.raises(LabelTreeError):
        LabelTree.from_paths([("a", "b"), ("c", "b")])
    with pytest.raises(LabelTreeError):
        LabelTree.from_paths([("a", "b", "a")])
    with pytest.raises(LabelTreeError, match="'leg'"):
        LabelTree.from_nested(NESTED).path("leg")
    for query in ("children", "descendants", "leaves", "siblings", "value"):
        with pytest.raises(LabelTreeError, match="'leg'"):
            getattr(LabelTree.from_nested(NESTED), query)("leg")
    with pytest.raises(LabelTreeError, match="found none"):
        LabelTree.from_json({})
    with pytest.raises(LabelTreeError, match=r"children of 'a' as a mapping, .* but found 'rib'"):
        LabelTree.from_nested({"a": "rib", "b": {}})


def test_refuses_labels_that_disagree_with_the_tree():
    labels = LabelTree.from_nested(NESTED).to_labels()
    with pytest.raises(LabelTreeError, match="labels lack hip"):
        LabelTree.from_nested(NESTED, {name: value for name, value in labels.items() if name != "hip"})
    with pytest.raises(LabelTreeError, match="0 to 7"):
        LabelTree.from_nested(NESTED, labels | {"hip": 12})
    wrong: tuple[Any, ...] = ([3, 4], "2", True, None)
    for value in wrong:
        with pytest.raises(LabelTreeError, match="one integer for every node"):
            LabelTree.from_nested(NESTED, labels | {"bones": value})


def test_dataset_json_needs_the_background_as_leaf_zero(tree):
    dataset_json = {"labels": tree.to_labels() | {"ignore": 8}, "label_tree": tree.to_nested()}
    assert LabelTree.from_dataset_json(dataset_json) == tree
    with pytest.raises(UserError, match="'label_tree' section"):
        LabelTree.from_dataset_json({"labels": tree.to_labels()})
    swapped = tree.to_labels() | {"background": 3, "rib": 0}
    with pytest.raises(LabelTreeError, match="'background'"):
        LabelTree.from_dataset_json({"labels": swapped, "label_tree": tree.to_nested()})


def test_union_appends_and_never_renumbers(tree):
    other = LabelTree.from_nested({"background": {}, "body": {"organs": {"kidney": {}, "liver": {}}, "bones": {}}})
    union = tree.union(other)
    assert union.names == (*tree.names, "kidney")
    assert union.parent("kidney") == "organs"
    with pytest.raises(LabelTreeError, match="'liver'"):
        tree.union(LabelTree.from_nested({"background": {}, "liver": {}}))


def test_complete_gives_single_children_a_sibling():
    single = LabelTree.from_paths([("body", "bones", "rib")], check_single_children=False)
    completed = single.complete()
    assert completed.names == ("body", "bones", "rib", "background", "body_other", "bones_other")
    assert completed.siblings("rib") == ("bones_other",)


@given(st.data())
def test_random_trees_agree_with_their_definition(label_trees, data):
    tree = data.draw(label_trees)
    parents = tree.parent_values().tolist()
    for name in tree:
        above = []
        value = parents[tree.value(name)]
        while value >= 0:
            above.append(tree.names[value])
            value = parents[value]
        assert tree.ancestors(name) == tuple(reversed(above))
        below = {other for other in tree if name in tree.ancestors(other)}
        assert set(tree.descendants(name)) == below
        assert tree.leaf_mask(name).sum() == sum(not tree.children(node) for node in below | {name})


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_trees(name):
    tree = LabelTree.from_file(name)
    assert LabelTree.from_dataset_json({"labels": tree.to_labels(), "label_tree": tree.to_nested()}) == tree
    content = json.loads((resource_folder("label_orders") / "trees" / f"{name}.json").read_text(encoding="utf-8"))
    assert {"name", "title", "source", "license"} <= set(content)
    assert content["name"] == name


def test_shipped_salt_tree_has_the_published_size():
    tree = LabelTree.from_file("salt")
    assert (len(tree), len(tree.inner_nodes), len(tree.leaves())) == (145, 31, 114)
    assert {len(tree.children(node)) for node in (None, *tree.inner_nodes)} <= set(range(2, 18))


def test_shipped_totalsegmentator_tree_keeps_its_integers(reference_folder):
    order = json.loads((reference_folder / "label_orders.json").read_text())["totalsegmentator_v2"]
    tree = LabelTree.from_file("totalsegmentator_v2")
    assert {name: tree.value(name) for name in tree.leaves()} == {"background": 0, **order}


def test_unknown_tree_is_refused_with_the_known_names(tmp_path):
    with pytest.raises(UserError, match="salt"):
        LabelTree.from_file("no_such_tree")
    (tmp_path / "bad.json").write_text('{"a": {"x": {}}, "b": {}}')
    with pytest.raises(LabelTreeError, match=r"bad\.json"):
        LabelTree.from_file(Path(tmp_path / "bad.json"))
    (tmp_path / "twice.json").write_text('{"a": {"rib": {}, "rib": {}}, "b": {}}')
    with pytest.raises(UserError, match=r"twice\.json, but 'rib' is there more often"):
        LabelTree.from_file(tmp_path / "twice.json")


def test_a_dataset_json_is_a_tree_file_too(tree):
    """``nnUNetv2_ext_info tree`` takes the dataset.json of a collection."""
    dataset_json = {"labels": tree.to_labels() | {"ignore": len(tree)}, "label_tree": tree.to_nested()}
    assert LabelTree.from_json(json.loads(json.dumps(dataset_json))) == tree
    with pytest.raises(UserError, match=r"as labels in the dataset\.json"):
        LabelTree.from_dataset_json({"label_tree": tree.to_nested()})


def test_a_name_that_a_missing_sibling_would_get_is_not_free():
    incomplete = {"background": {}, "body": {"bones": {}}, "x": {"body_other": {}, "y": {}}}
    with pytest.raises(LabelTreeError, match="'body_other' of the sibling it needs is taken"):
        LabelTree.from_nested(incomplete, check_single_children=False).complete()
