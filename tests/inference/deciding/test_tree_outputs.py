from __future__ import annotations

import numpy as np
import pytest

from nnunetv2_ext.inference.deciding.outputs import plan_node_masks, plan_tree_outputs
from nnunetv2_ext.inference.reporting.statistics import label_statistics
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
    with pytest.raises(UserError, match="at least one node"):
        plan_tree_outputs(DATASET, nodes=[])


def test_a_mask_of_an_inner_node_is_everything_below():
    """The network decides for leaves, never for inner nodes: a mask of their own channel would be empty."""
    masks = {output.name: output.table(len(TREE))[LEAVES] for output in plan_node_masks(DATASET).maps}
    assert list(masks) == [name for name in TREE if name != "background"]
    for name, mask in masks.items():
        assert [bool(value) for value in mask] == [name in TREE.path(leaf) for leaf in TREE.leaves()], name
    assert [output.name for output in plan_node_masks(DATASET, ["liver", "hip"]).maps] == ["hip", "liver"]


@pytest.mark.parametrize(("leaves", "found"), [(["hip", "leg"], "leg"), (["background"], "background"), ([], "none")])
def test_masks_of_classes_that_the_model_does_not_have_are_refused(leaves, found):
    with pytest.raises(UserError, match=rf"classes of the model \(rib, hip, liver, .*\), but got {found}\."):
        plan_node_masks(DATASET, leaves)


@pytest.mark.parametrize("kind", ["masks", "classes"])
def test_predictions_of_nodes(kind, tree_model, make_ct):
    """From an image to the masks, against the merged map of leaves."""
    import SimpleITK as sitk

    from nnunetv2_ext.inference import Predictor

    def predict(**options):
        return Predictor.from_model_folder(tree_model, device="cpu", **options).predict(make_ct())

    leaves = sitk.GetArrayFromImage(predict())
    assert set(np.unique(leaves)) == {0, 3, 4, 5}
    if kind == "masks":
        masks = {name: sitk.GetArrayFromImage(image) for name, image in predict(outputs="per_class").items()}
        for name, below in {"body": (3, 4, 5), "bones": (3, 4), "rib": (3,), "hip": (4,), "body_other": (5,)}.items():
            assert (masks[name] == np.isin(leaves, below)).all(), name
        assert len(masks) == 5
        return
    with pytest.raises(UserError, match=r"classes of the model .*, but got leg"):
        predict(outputs="per_class", classes=["leg"])
    assert (sitk.GetArrayFromImage(predict(classes=["rib"])) == np.where(leaves == 3, 3, 0)).all()
    with pytest.raises(UserError, match="--nodes bones"):
        predict(classes=["rib", "bones"])
    with pytest.raises(UserError, match="per_source"):
        predict(outputs="per_source")
