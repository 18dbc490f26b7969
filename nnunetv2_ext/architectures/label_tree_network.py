"""Gives a network a label tree: node logits while it trains, leaf log-probabilities when it predicts."""

from __future__ import annotations

from typing import Any, cast

import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor, nn

from nnunetv2_ext.architectures.tree_softmax import TreeSoftmax

#: Log-probabilities of leaves are cut off here, those of inner nodes are set to the lower value. Averages over windows
#: then never let an inner node win, and multiplied by nnU-Net's Gaussian weights (up to 10, several windows per voxel)
#: all of them stay within half precision, in which nnU-Net adds them up.
LEAF_FLOOR = -64.0
INNER_VALUE = -128.0

#: Name of the tree in a state dict. Stock ``-pretrained_weights`` demands every tensor of the new network in the old
#: one, except where the name holds ``.seg_layers.``; a network without a tree can thus pretrain one that has a tree.
PARENTS_NAME = "label_tree.seg_layers.parents"


class LabelTreeOutput(nn.Module):
    """The tree of a network, kept among its weights.

    Args:
        parents: Integer of each node's parent, -1 for children of the root.

    Attributes:
        gives_node_logits: Leave the outputs as they are in evaluation mode too, for the loss of validation batches.
    """

    def __init__(self, parents: ArrayLike | Tensor) -> None:
        super().__init__()
        self.seg_layers = TreeSoftmax(parents)
        self.gives_node_logits = False

    def set_parents(self, parents: ArrayLike | Tensor) -> None:
        """Replaces the tree by another one with as many nodes."""
        self.seg_layers.set_parents(parents)

    def forward(self, logits: Float[Tensor, "batch nodes *spatial"]) -> Float[Tensor, "batch nodes *spatial"]:
        """Log-probabilities in the channels of leaves, a lower constant in those of inner nodes.

        Their softmax is the probabilities of the leaves, and their argmax the most likely leaf, so that software which
        knows nothing of trees predicts rightly.
        """
        leaves = self.seg_layers.leaf_log_probabilities(logits.float()).clamp_min(LEAF_FLOOR)
        everywhere = torch.full_like(logits, INNER_VALUE, dtype=leaves.dtype)
        return everywhere.index_copy(1, self.seg_layers.leaves, leaves)


def give_label_tree(network: nn.Module, parents: ArrayLike | Tensor) -> nn.Module:
    """Lets a network predict leaf log-probabilities in evaluation mode; changed in place.

    A hook on the output rather than a module around the network, so that all weights keep their names.

    Args:
        network: Has one output channel per node.
        parents: Integer of each node's parent, -1 for children of the root; all -1 for a tree that is still to be
            loaded with the weights.

    Returns:
        The network, with an attribute ``label_tree`` (`LabelTreeOutput`).
    """
    network.label_tree = LabelTreeOutput(parents)
    network.register_forward_hook(_predict_leaves)
    return network


def label_tree_of(network: nn.Module) -> LabelTreeOutput | None:
    """The tree of a network, or None."""
    tree = getattr(network, "label_tree", None)
    return tree if isinstance(tree, LabelTreeOutput) else None


def _predict_leaves(network: nn.Module, _inputs: Any, outputs: Any) -> Any:
    tree = cast(LabelTreeOutput, network.label_tree)
    if network.training or tree.gives_node_logits:
        return outputs
    return [tree(level) for level in outputs] if isinstance(outputs, list | tuple) else tree(outputs)
