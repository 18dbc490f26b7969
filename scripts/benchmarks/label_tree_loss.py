"""LabelTreeLoss against a straightforward implementation, node by node; forward and backward.

The tree is the published one of SALT (145 nodes, 114 leaves), the patch 64^3, the batch 2, every leaf annotated (the
dearest case) or, with ``--annotated liver``, one node of it. The peer is what one writes from the definition: the
softmax of each sibling group, each node's log p as the sum along its path, and for each annotated node the
cross-entropy of its voxels and its Dice, all under autograd.

Least work possible for 145 x 64^3 x 2 logits in float32 (304 MB): read the logits, write the softmax, write the
gradient over it: 0.9 GB moved, about 0.1 s on two cores at 10 GB/s, plus 76 million exponentials, about 0.2 s. The
least extra memory is the gradient itself, 304 MB.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

import torch
from _measure import extra_peak_mb, report, run_once, seconds
from torch import Tensor

from nnunetv2_ext.labels.label_tree import LabelTree
from nnunetv2_ext.labels.tree_annotation import determined_nodes, possible_leaves
from nnunetv2_ext.training.loss.label_tree_loss import LabelTreeLoss


def straightforward_loss(tree: LabelTree, logits: Tensor, label_map: Tensor, names: list[str]) -> Tensor:
    """The same loss from its definition, for a batch whose images all annotate the same nodes."""
    log_conditional: dict[str, Tensor] = {}
    for group in map(tree.children, (None, *tree.inner_nodes)):
        of_group = logits[:, [tree.value(name) for name in group]].log_softmax(1)
        log_conditional.update(zip(group, of_group.unbind(1), strict=True))
    log_p: dict[str, Tensor] = {}
    for name in sorted(tree, key=tree.depth):
        parent = tree.parent(name)
        log_p[name] = log_conditional[name] if parent is None else log_p[parent] + log_conditional[name]
    annotated = set(names)
    labels = label_map[:, 0]
    cross_entropy = logits.new_zeros(())
    for value, name in enumerate(tree.names):
        voxels = labels == value
        if voxels.any():
            possible = possible_leaves(tree, name, annotated)
            likelihood = torch.stack([log_p[leaf][voxels] for leaf in possible]).logsumexp(0)
            cross_entropy = cross_entropy - likelihood.sum()
    dice = []
    for name in sorted(determined_nodes(tree, annotated) - {"background"}):
        below = {name, *tree.descendants(name)} & annotated
        reference = torch.tensor([node in below for node in tree.names], device=labels.device)[labels]
        probability = log_p[name].exp()
        overlap = (probability * reference).sum()
        dice.append((2 * overlap + 1) / (probability.sum() + reference.sum() + 1))
    return cross_entropy / labels.numel() - torch.stack(dice).mean()


def main() -> None:
    """Runs the benchmark and prints one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=64, help="edge of the patch in voxels")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--annotated", nargs="+", help="annotated nodes; all leaves by default")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--peak_of", choices=("ours", "peer"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()

    torch.manual_seed(0)
    tree = LabelTree.from_file("salt")
    names = arguments.annotated or list(tree.leaves())
    shape = (arguments.batch, len(tree), *[arguments.size] * 3)
    logits = torch.randn(shape, device=arguments.device).requires_grad_()
    values = torch.tensor(sorted({0, *(tree.value(name) for name in names)}), device=arguments.device)
    # Blocks of 4^3 voxels share a label, as structures do; the last label value stands for no label.
    coarse = torch.randint(len(values), (arguments.batch, 1, *[arguments.size // 4] * 3), device=arguments.device)
    label_map = values[coarse]
    for axis in (2, 3, 4):
        label_map = label_map.repeat_interleave(4, axis)
    annotated = torch.tensor([[name in names for name in tree]] * arguments.batch)
    loss = LabelTreeLoss(tree)

    def ours() -> Tensor:
        value = loss(logits, label_map, annotated)
        (gradient,) = torch.autograd.grad(value, logits)
        return gradient

    def peer() -> Tensor:
        value = straightforward_loss(tree, logits, label_map, names)
        (gradient,) = torch.autograd.grad(value, logits)
        return gradient

    if arguments.peak_of:
        # A process of its own, because memory that was freed stays with the process and hides the next peak.
        print(run_once({"ours": ours, "peer": peer}[arguments.peak_of]).extra_peak_mb)
        return

    with torch.no_grad():
        both = [loss(logits, label_map, annotated), straightforward_loss(tree, logits, label_map, names)]
    expected = peer()
    difference = (ours() - expected).abs().max() / expected.abs().max()
    del expected
    times = seconds({"ours": ours, "peer": peer}, arguments.repeats, arguments.device)
    if arguments.device == "cpu":
        ours_mb, peer_mb = _peak_in_own_process("ours"), _peak_in_own_process("peer")
    else:
        ours_mb, peer_mb = extra_peak_mb(ours, arguments.device), extra_peak_mb(peer, arguments.device)
    report(
        "label_tree_loss",
        ours_s=times["ours"],
        peer_s=times["peer"],
        ratio=times["peer"] / times["ours"],
        ours_peak_mb=ours_mb,
        peer_peak_mb=peer_mb,
        memory_ratio=ours_mb / peer_mb,
        agreement=1 - float(difference),
        loss_difference=float((both[0] - both[1]).abs()),
        annotated=len(names),
        nodes=len(tree),
        voxels=arguments.batch * arguments.size**3,
    )


def _peak_in_own_process(which: str) -> float:
    command = [sys.executable, *sys.argv, "--peak_of", which]
    return float(subprocess.run(command, check=True, capture_output=True, encoding="utf-8").stdout)


if __name__ == "__main__":
    main()
