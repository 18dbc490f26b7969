from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunetv2_ext.labels.label_tree import LabelTree
from nnunetv2_ext.labels.tree_annotation import determined_nodes, possible_leaves
from nnunetv2_ext.training.loss import label_tree_loss as module
from nnunetv2_ext.training.loss.label_tree_loss import LabelTreeLoss

TREE = LabelTree.from_nested(
    {
        "background": {},
        "body": {
            "bones": {"ribs": {"rib_1": {}, "rib_2": {}}, "hip": {}},
            "organs": {"liver": {}, "spleen": {}, "organs_other": {}},
            "body_other": {},
        },
    }
)
IGNORE = len(TREE)
NAMES = st.sampled_from(TREE.names)


def mask(*samples: set[str]) -> torch.Tensor:
    return torch.tensor([[name in names for name in TREE] for names in samples])


def probabilities(logits: torch.Tensor) -> dict[str, torch.Tensor]:
    """Every node's probability in float64 as the product of the conditionals along its path."""
    conditional = {}
    for name in TREE:
        family = [TREE.value(node) for node in (name, *TREE.siblings(name))]
        exponentials = logits[:, family].double().exp()
        conditional[name] = exponentials[:, 0] / exponentials.sum(1)
    return {name: torch.stack([conditional[node] for node in TREE.path(name)]).prod(0) for name in TREE}


def expected_loss(logits, label_map, samples, smooth):
    """The formula of the class docstring, voxel set by voxel set."""
    p = probabilities(logits)
    cross_entropy, voxels, sums = torch.zeros((), dtype=torch.float64), 0, {}
    for index, annotated in enumerate(samples):
        if not annotated:
            continue
        labels = label_map[index, 0]
        counts = torch.zeros_like(labels, dtype=torch.bool)
        for value, name in enumerate(TREE.names):
            possible = possible_leaves(TREE, name, annotated)
            here = labels == value
            if possible:
                counts |= here
                cross_entropy = (
                    cross_entropy - torch.stack([p[leaf][index] for leaf in possible]).sum(0)[here].log().sum()
                )
        voxels += int(counts.sum())
        for name in determined_nodes(TREE, annotated) - {"background"}:
            inside = [TREE.value(node) for node in annotated if name in TREE.path(node)]
            reference = torch.isin(labels, torch.tensor(inside, dtype=labels.dtype)) & counts
            terms = ((p[name][index] * reference).sum(), (p[name][index] * counts).sum(), reference.sum())
            sums[name] = [a + b for a, b in zip(sums.get(name, [0, 0, 0]), terms, strict=True)]
    dice = [(2 * both + smooth) / (predicted + true + smooth) for both, predicted, true in sums.values()]
    return cross_entropy / max(voxels, 1) - (sum(dice) / len(dice) if dice else 0)


@given(
    samples=st.lists(st.sets(NAMES), min_size=1, max_size=3),
    seed=st.integers(0, 10_000),
    scale=st.sampled_from([0.1, 1.0, 8.0]),
    smooth=st.sampled_from([1e-5, 1.0]),
    block=st.sampled_from([16, 64, 2**21]),
)
@settings(max_examples=25, deadline=None)
def test_value_and_gradient_equal_the_formula(samples, seed, scale, smooth, block):
    generator = torch.Generator().manual_seed(seed)
    shape = (len(samples), 1, 3, 2, 4)
    logits = scale * torch.randn((len(samples), len(TREE), *shape[2:]), generator=generator, dtype=torch.float64)
    logits.requires_grad_()
    label_map = torch.randint(0, IGNORE + 1, shape, generator=generator)
    expected = expected_loss(logits, label_map, samples, smooth)
    wanted = torch.autograd.grad(expected, logits, allow_unused=True)[0] if expected.requires_grad else None

    original, module._BLOCK_ELEMENTS_CPU = module._BLOCK_ELEMENTS_CPU, block
    try:
        found = LabelTreeLoss(TREE, ignore_label=IGNORE, smooth=smooth)(logits, label_map, mask(*samples))
        gradient = torch.autograd.grad(found, logits)[0]
    finally:
        module._BLOCK_ELEMENTS_CPU = original
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(gradient, torch.zeros_like(logits) if wanted is None else wanted, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("samples", [[set(TREE.leaves())], [{"liver"}, {"bones", "ribs"}]])
def test_gradcheck(samples):
    torch.manual_seed(1)
    logits = torch.randn(len(samples), len(TREE), 2, 2, dtype=torch.float64, requires_grad=True)
    values = torch.tensor(sorted({0, *(TREE.value(name) for names in samples for name in names)}))
    label_map = values[torch.randint(len(values), (len(samples), 1, 2, 2))]
    loss = LabelTreeLoss(TREE)
    assert torch.autograd.gradcheck(lambda x: loss(x, label_map, mask(*samples)), logits)


def test_half_precision_logits_give_a_half_precision_gradient():
    torch.manual_seed(2)
    logits = torch.randn(1, len(TREE), 4, 4, 4).half().requires_grad_()
    label_map = torch.randint(0, IGNORE, (1, 1, 4, 4, 4))
    annotated = mask(set(TREE.leaves()))
    loss = LabelTreeLoss(TREE)(logits, label_map, annotated)
    assert loss.dtype == torch.float32
    (gradient,) = torch.autograd.grad(loss, logits)
    reference = logits.detach().double().requires_grad_()
    (expected,) = torch.autograd.grad(LabelTreeLoss(TREE)(reference, label_map, annotated), reference)
    assert gradient.dtype == torch.float16
    torch.testing.assert_close(gradient.double(), expected, rtol=2e-3, atol=1e-6)


def test_full_annotation_is_the_plain_cross_entropy_over_leaves():
    torch.manual_seed(3)
    logits = torch.randn(2, len(TREE), 3, 3, 3)
    leaves = torch.tensor([TREE.value(name) for name in TREE.leaves()])
    index = torch.randint(len(leaves), (2, 1, 3, 3, 3))
    loss = LabelTreeLoss(TREE, smooth=1e12)  # every Dice is 1
    p = torch.stack([probabilities(logits)[name] for name in TREE.leaves()], 1)
    expected = torch.nn.functional.nll_loss(p.log(), index[:, 0])
    value = loss(logits, leaves[index], mask(set(TREE.leaves()), set(TREE.leaves())))
    assert float(value) + 1 == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize("name", TREE.leaves())
def test_every_voxel_counts_once_however_deep_its_label(name):
    """With all logits 0 the loss of a voxel is minus the log of its leaf's probability, at any depth."""
    logits = torch.zeros(1, len(TREE), 2, 2, 2)
    label_map = torch.full((1, 1, 2, 2, 2), TREE.value(name))
    value = LabelTreeLoss(TREE, smooth=1e12)(logits, label_map, mask(set(TREE.leaves())))
    expected = sum(torch.tensor(1.0 + len(TREE.siblings(node))).log() for node in TREE.path(name))
    assert float(value) + 1 == pytest.approx(float(expected), abs=1e-5)


def test_liver_only_batch_without_liver_teaches_no_liver():
    logits = torch.zeros(1, len(TREE), 2, 2, 2, requires_grad=True)
    label_map = torch.zeros(1, 1, 2, 2, 2, dtype=torch.int16)
    (gradient,) = torch.autograd.grad(LabelTreeLoss(TREE)(logits, label_map, mask({"liver"})), logits)
    assert (gradient[:, TREE.value("liver")] > 0).all()
    assert (gradient[:, TREE.value("spleen")] < 0).all()
    for untold in ("rib_1", "rib_2", "ribs", "hip"):
        assert not gradient[:, TREE.value(untold)].any()
    (published,) = torch.autograd.grad(LabelTreeLoss(TREE, formula="salt")(logits, label_map, mask({"liver"})), logits)
    assert not published.any()


def test_an_extreme_logit_still_pulls():
    """P(S) is far below the smallest float32, as a product of probabilities it would be 0 and have no gradient."""
    logits = torch.zeros(1, len(TREE), 1, 1, 1)
    logits[:, TREE.value("liver")] = 300
    logits[:, TREE.value("organs")] = 300
    logits[:, TREE.value("body")] = 300
    logits.requires_grad_()
    label_map = torch.zeros(1, 1, 1, 1, 1, dtype=torch.int64)
    value = LabelTreeLoss(TREE)(logits, label_map, mask({"liver"}))
    assert float(value.detach()) > 290
    (gradient,) = torch.autograd.grad(value, logits)
    assert float(gradient[0, TREE.value("liver"), 0, 0, 0]) > 0.3


def test_ignored_voxels_count_nowhere():
    torch.manual_seed(4)
    logits = torch.randn(1, len(TREE), 2, 2, 4, requires_grad=True)
    label_map = torch.randint(0, IGNORE, (1, 1, 2, 2, 4))
    label_map[..., 2:] = IGNORE
    loss, annotated = LabelTreeLoss(TREE, ignore_label=IGNORE), mask({"bones", "liver"})
    value = loss(logits, label_map, annotated)
    (gradient,) = torch.autograd.grad(value, logits)
    assert not gradient[..., 2:].any()
    part = loss(logits[..., :2], label_map[..., :2], annotated)
    assert float(value.detach()) == pytest.approx(float(part.detach()), abs=1e-6)


def test_nothing_annotated_has_no_loss_and_no_gradient():
    logits = torch.randn(1, len(TREE), 2, 2, requires_grad=True)
    value = LabelTreeLoss(TREE)(logits, torch.zeros(1, 1, 2, 2, dtype=torch.int64), mask(set()))
    (gradient,) = torch.autograd.grad(value, logits)
    assert float(value.detach()) == 0
    assert not gradient.any()


def test_second_backward_gives_the_same_gradient():
    logits = torch.randn(1, len(TREE), 2, 2, requires_grad=True)
    value = LabelTreeLoss(TREE)(logits, torch.zeros(1, 1, 2, 2, dtype=torch.int64), mask({"liver"}))
    (first,) = torch.autograd.grad(value, logits, retain_graph=True)
    (second,) = torch.autograd.grad(value, logits)
    torch.testing.assert_close(first, second)


def test_wrong_shapes_are_refused():
    loss = LabelTreeLoss(TREE)
    with pytest.raises(ValueError, match="label map"):
        loss(torch.zeros(1, len(TREE), 2, 2), torch.zeros(1, 1, 3, 2, dtype=torch.int64), mask({"liver"}))
    with pytest.raises(ValueError, match="annotated"):
        loss(torch.zeros(1, 3, 2, 2), torch.zeros(1, 1, 2, 2, dtype=torch.int64), mask({"liver"}))
    unknown: Any = "other"
    with pytest.raises(ValueError, match="formula"):
        LabelTreeLoss(TREE, formula=unknown)
