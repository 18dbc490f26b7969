from __future__ import annotations

import pytest
import torch

from nnunetv2_ext.labels.label_tree import LabelTree
from nnunetv2_ext.training.loss.label_tree_loss import LabelTreeLoss

TREE = LabelTree.from_nested(
    {"background": {}, "body": {"bones": {"rib": {}, "hip": {}}, "organs": {"liver": {}, "spleen": {}}}}
)


def published(logits, label_map, annotated, ignore):
    """SALT's loss over one image with plain loops over voxels: softmax per siblings, products, nested sums."""
    nodes = [name for name in TREE if name in annotated]
    for name in reversed(TREE.inner_nodes):
        if name not in nodes and all(child in nodes for child in TREE.children(name)):
            nodes.append(name)
    values = label_map.flatten().tolist()
    columns = logits.flatten(1).double()
    total, count = torch.zeros((), dtype=columns.dtype), 0
    overlap, predicted, true = ({name: torch.zeros_like(total) for name in nodes} for _ in range(3))
    for voxel, value in enumerate(values):
        if value == ignore:
            continue
        count += 1
        belongs = TREE.path(TREE.names[value]) if TREE.names[value] in annotated else ()
        for name in nodes:
            p = torch.ones((), dtype=columns.dtype)
            for node in TREE.path(name):
                family = [TREE.value(other) for other in (node, *TREE.siblings(node))]
                p = p * columns[family, voxel].softmax(0)[0]
            if name in belongs:
                total = total - torch.log(p.clamp(1e-7, 1 - 1e-7))
                overlap[name] = overlap[name] + p
                true[name] = true[name] + 1
            predicted[name] = predicted[name] + p
    dice = torch.stack([1 - 2 * overlap[name] / (true[name] + predicted[name] + 1e-5) for name in nodes]).mean()
    return total / count + dice


@pytest.mark.parametrize(
    "annotated",
    [set(TREE.leaves()), {"liver"}, {"rib", "hip", "liver"}, {"background", "body"}],
    ids=lambda names: "+".join(sorted(names)),
)
def test_equals_the_published_formula(annotated):
    torch.manual_seed(0)
    logits = torch.randn(2, len(TREE), 2, 3, 2, dtype=torch.float64, requires_grad=True)
    choices = torch.tensor([0, *(TREE.value(name) for name in annotated), len(TREE)])
    label_map = choices[torch.randint(len(choices), (2, 1, 2, 3, 2))]
    mask = torch.tensor([[name in annotated for name in TREE]] * 2)
    found = LabelTreeLoss(TREE, ignore_label=len(TREE), formula="salt")(logits, label_map, mask)
    expected = sum(published(logits[index], label_map[index], annotated, len(TREE)) for index in range(2)) / 2
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(
        torch.autograd.grad(found, logits)[0], torch.autograd.grad(expected, logits)[0], rtol=1e-7, atol=1e-10
    )


def test_deep_voxels_weigh_more_there_but_not_here():
    """A rib voxel counts three times in the published loss (body, bones, rib)."""
    logits = torch.zeros(1, len(TREE), 1, 1)
    label_map = torch.full((1, 1, 1, 1), TREE.value("rib"))
    mask = torch.tensor([[name in TREE.leaves() for name in TREE]])
    here = float(LabelTreeLoss(TREE, smooth=1e12)(logits, label_map, mask)) + 1
    there = float(LabelTreeLoss(TREE, formula="salt")(logits, label_map, mask))
    assert here == pytest.approx(3 * 0.6931472, abs=1e-5)
    assert there > (1 + 2 + 3) * 0.6931


def test_an_image_of_ignored_voxels_counts_nowhere():
    torch.manual_seed(0)
    logits = torch.randn(2, len(TREE), 2, 3, requires_grad=True)
    label_map = torch.full((2, 1, 2, 3), len(TREE))
    mask = torch.tensor([[name in TREE.leaves() for name in TREE]] * 2)
    loss = LabelTreeLoss(TREE, ignore_label=len(TREE), formula="salt")
    nothing = loss(logits, label_map, mask)
    nothing.backward()
    assert float(nothing) == 0
    assert logits.grad is not None
    assert not logits.grad.any()
    label_map[0] = TREE.value("rib")
    torch.testing.assert_close(loss(logits, label_map, mask), loss(logits[:1], label_map[:1], mask[:1]))
