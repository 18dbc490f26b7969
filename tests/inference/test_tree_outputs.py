from __future__ import annotations

import numpy as np
import pytest

from nnunetv2_ext.inference.statistics import label_statistics
from nnunetv2_ext.inference.tree_outputs import plan_tree_outputs
from nnunetv2_ext.labels.label_tree import LabelTree
from nnunetv2_ext.utilities.errors import UserError

TREE = LabelTree.from_nested(
    {"background": {}, "body": {"bones": {"rib": {}, "hip": {}}, "organs": {"liver": {}, "spleen": {}}, "rest": {}}}
)
DATASET = {"labels": TREE.to_labels(), "label_tree": TREE.to_nested()}
LEAVES = np.array([TREE.value(name) for name in TREE.leaves()])


def painted(**choice):
    """What is written where the network decides for each leaf in turn."""
    (output,) = plan_tree_outputs(DATASET, **choice).maps
    values = output.table(len(TREE))[LEAVES]
    return dict(zip(TREE.leaves(), [TREE.names[value] for value in values], strict=True)), output


def test_leaves_by_default():
    written, output = painted()
    assert written == {name: name for name in TREE.leaves()}
    assert output.names[TREE.value("bones")] == "bones"


def test_a_level_keeps_shallow_leaves():
    written, output = painted(level=2)
    assert written == {
        "background": "background", "rib": "bones", "hip": "bones", "liver": "organs", "spleen": "organs",
        "rest": "rest",
    }  # fmt: skip
    assert "rib" not in output.names.values()


def test_nodes_write_the_deepest_one():
    written, output = painted(nodes=["body", "bones"])
    assert written["rib"] == "bones"
    assert written["liver"] == "body"
    assert written["background"] == "background"
    assert sorted(output.names.values()) == ["body", "bones"]


def test_statistics_of_an_inner_node_hold_everything_below():
    _, output = painted()
    labels = np.array([[TREE.value(name) for name in ("rib", "rib", "hip", "liver", "background", "rest")]])[None]
    image = np.array([[[100.0, 300.0, 200.0, 50.0, 0.0, 10.0]]])
    figures = label_statistics(labels, image, output.names, 0.5, output.parts)
    assert figures["bones"] == pytest.approx(
        {"voxels": 3, "volume_ml": 1.5, "mean_intensity": 200.0, "sd_intensity": np.std([100, 300, 200])}
    )
    assert figures["body"]["volume_ml"] == 2.5
    assert figures["spleen"]["voxels"] == 0


def test_bad_requests_are_refused():
    with pytest.raises(UserError, match="label tree"):
        plan_tree_outputs({"labels": {"background": 0, "liver": 1}}, level=1)
    with pytest.raises(UserError, match="both"):
        plan_tree_outputs(DATASET, level=1, nodes=["bones"])
    with pytest.raises(UserError, match="'leg'"):
        plan_tree_outputs(DATASET, nodes=["leg"])
    with pytest.raises(UserError, match="at least 1"):
        plan_tree_outputs(DATASET, level=0)
