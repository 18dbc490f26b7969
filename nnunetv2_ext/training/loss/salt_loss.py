"""The published loss of SALT, written plainly, for comparison with `LabelTreeLoss`."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nnunetv2_ext.architectures.tree_softmax import TreeSoftmax
from nnunetv2_ext.labels.label_tree import LabelTree
from nnunetv2_ext.labels.tree_annotation import determined_nodes
from nnunetv2_ext.training.loss.precision import at_least_float32

# Probabilities are clipped to [_CLIP, 1 - _CLIP] before the logarithm, and the Dice has _SMOOTH below the fraction bar
# but nothing above it, as in the published code.
_CLIP = 1e-7
_SMOOTH = 1e-5


def salt_loss(
    tree: LabelTree,
    logits: Float[Tensor, "batch nodes *spatial"],
    label_map: Int[Tensor, "batch 1 *spatial"],
    annotated: Bool[Tensor, "batch nodes"],
    ignore_label: int | None = None,
) -> Float[Tensor, ""]:
    """Cross-entropy summed over all annotated ancestors, plus one minus the Dice, averaged over the images.

    For each image that has annotated nodes, over its voxels that are not ignored (at least one), with `Y_j` = 1 where
    the label is node `j` or lies below it::

        mean over voxels of sum_{j in M} -Y_j log p_j  +  mean over M of (1 - 2 sum Y_j p_j / (sum Y_j + sum p_j))

    Its known weaknesses, which `LabelTreeLoss` avoids: a deep voxel counts once per ancestor, a voxel without label
    teaches nothing, and a class that is absent from the patch has no gradient. The published code has a further term,
    for a "sink", whose weight is 0 in the published training; it is left out.

    Source: Becker et al., Scientific Reports 15, 44140 (2025), and its published code.

    Args:
        tree: The label tree.
        logits: One channel per node.
        label_map: Node integers, or the ignore label.
        annotated: Which nodes each image's source annotates; parents of fully annotated children are added.
        ignore_label: Label value of voxels that count nowhere.
    """
    logits = at_least_float32(logits)
    softmax = TreeSoftmax(tree.parent_values()).to(logits.device)
    belongs = torch.eye(len(tree), dtype=torch.bool)
    for value, name in enumerate(tree.names):
        belongs[value, [tree.value(ancestor) for ancestor in tree.ancestors(name)]] = True
    losses = []
    for sample, chosen in enumerate(annotated.tolist()):
        names = determined_nodes(tree, [name for name, is_chosen in zip(tree.names, chosen, strict=True) if is_chosen])
        if not names:
            continue
        nodes = torch.tensor(sorted(tree.value(name) for name in names), device=logits.device)
        values = label_map[sample].flatten().long()
        valid = torch.ones_like(values, dtype=torch.bool) if ignore_label is None else values != ignore_label
        if not valid.any():
            continue
        probabilities = softmax.log_probabilities(logits[sample].flatten(1)[:, valid], dim=0)[nodes].exp()
        # A label that the source does not annotate, like 0 where it does not annotate the background, is no label.
        is_label = torch.tensor(chosen, device=logits.device)[values[valid]]
        reference = (belongs.to(logits.device)[values[valid]][:, nodes] & is_label[:, None]).T.to(probabilities.dtype)
        cross_entropy = -(reference * probabilities.clamp(_CLIP, 1 - _CLIP).log()).sum(0).mean()
        overlap = 2 * (reference * probabilities).sum(1)
        dice = overlap / (reference.sum(1) + probabilities.sum(1) + _SMOOTH)
        losses.append(cross_entropy + (1 - dice).mean())
    return torch.stack(losses).mean() if losses else logits.sum() * 0
