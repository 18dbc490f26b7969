from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunetv2_ext.architectures.tree_softmax import TreeSoftmax


@st.composite
def parent_lists(draw):
    """Parents in any numbering: children may come before their parents."""
    parents = [-1] * draw(st.integers(2, 4))
    for _ in range(draw(st.integers(0, 4))):
        parent = draw(st.integers(0, len(parents) - 1))
        if parent not in parents:
            parents += [parent] * draw(st.integers(2, 4))
    order = draw(st.permutations(range(len(parents))))
    moved = [0] * len(parents)
    for old, new in enumerate(order):
        moved[new] = -1 if parents[old] < 0 else order[parents[old]]
    return moved


@given(parent_lists(), st.integers(0, 1000), st.sampled_from([1.0, 30.0]))
@settings(max_examples=40, deadline=None)
def test_equals_the_product_of_conditionals_and_leaves_sum_to_one(parents, seed, scale):
    logits = scale * torch.randn(2, len(parents), 3, 2, generator=torch.Generator().manual_seed(seed))
    softmax = TreeSoftmax(parents)
    found = softmax.log_probabilities(logits).double().exp()
    for node in range(len(parents)):
        expected, current = torch.ones(2, 3, 2, dtype=torch.float64), node
        while current >= 0:
            family = [other for other, parent in enumerate(parents) if parent == parents[current]]
            expected = expected * logits.double()[:, family].softmax(1)[:, family.index(current)]
            current = parents[current]
        torch.testing.assert_close(found[:, node], expected, rtol=1e-4, atol=1e-6)
    leaves = [node for node in range(len(parents)) if node not in parents]
    assert softmax.leaves.tolist() == leaves
    torch.testing.assert_close(found[:, leaves].sum(1), torch.ones_like(found[:, 0]), rtol=0, atol=1e-5)
    torch.testing.assert_close(softmax.leaf_log_probabilities(logits), softmax.log_probabilities(logits)[:, leaves])


def test_the_tree_travels_with_the_weights():
    tree = TreeSoftmax([-1, -1, 1, 1])
    other = TreeSoftmax([-1] * 4)
    other.load_state_dict(tree.state_dict())
    logits = torch.randn(1, 4, 2)
    torch.testing.assert_close(other.log_probabilities(logits), tree.log_probabilities(logits))
    assert set(tree.state_dict()) == {"parents"}


def test_refuses_circles_and_other_sizes():
    with pytest.raises(ValueError, match="circle"):
        TreeSoftmax([-1, 2, 1])
    with pytest.raises(ValueError, match="4 nodes"):
        TreeSoftmax([-1] * 4).set_parents([-1] * 3)
