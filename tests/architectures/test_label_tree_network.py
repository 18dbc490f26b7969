from __future__ import annotations

import pytest
import torch
from torch import nn

from nnunetv2_ext.architectures.label_tree_network import PARENTS_NAME, give_label_tree, label_tree_of

PARENTS = [-1, -1, 1, 1]


@pytest.fixture
def network():
    torch.manual_seed(0)
    return give_label_tree(nn.Sequential(nn.Conv3d(1, 4, 1)), PARENTS)


def test_predicts_leaves_in_evaluation_mode_only(network):
    image = torch.randn(2, 1, 3, 4, 5)
    logits = network.train()(image)
    predicted = network.eval()(image)
    top, bottom = logits[:, :2].softmax(1), logits[:, 2:].softmax(1)
    expected = torch.stack(
        [top[:, 0], torch.zeros_like(top[:, 0]), top[:, 1] * bottom[:, 0], top[:, 1] * bottom[:, 1]], 1
    )
    torch.testing.assert_close(predicted.softmax(1), expected, rtol=1e-5, atol=1e-6)
    tree = label_tree_of(network)
    assert tree is not None
    tree.gives_node_logits = True
    torch.testing.assert_close(network(image), logits)


def test_windows_of_extreme_logits_never_average_to_an_inner_node(network):
    tree = label_tree_of(network)
    assert tree is not None
    sure = torch.zeros(2, 4, 1)
    sure[0, 0], sure[1, 1] = 500.0, 500.0  # one window is sure of node 0, the other of the other side
    average = tree(sure).mean(0)
    assert average[:, 0].argmax() != 1
    assert torch.isfinite(tree(sure).half() * 80).all()


def test_the_tree_is_saved_with_the_weights_and_stock_pretraining_skips_it(network):
    state = network.state_dict()
    assert state[PARENTS_NAME].tolist() == PARENTS
    assert ".seg_layers." in PARENTS_NAME
    other = give_label_tree(nn.Sequential(nn.Conv3d(1, 4, 1)), [-1] * 4)
    other.load_state_dict(state)
    image = torch.randn(1, 1, 2, 2, 2)
    torch.testing.assert_close(other.eval()(image), network.eval()(image))


def test_levels_of_deep_supervision_are_converted_one_by_one():
    class Levels(nn.Module):
        def forward(self, image):
            return [image, image[..., ::2]]

    outputs = give_label_tree(Levels(), PARENTS).eval()(torch.zeros(1, 4, 8))
    assert [tuple(output.shape) for output in outputs] == [(1, 4, 8), (1, 4, 4)]
    assert all((output[:, 1] < output[:, 0]).all() for output in outputs)
