"""Every loss has the same value and gradient whether or not the network before it runs under autocast."""

from __future__ import annotations

import pytest
import torch

from nnunetv2_ext.labels.label_tree import LabelTree
from nnunetv2_ext.training.loss.deep_supervision import PartialLabelDeepSupervision
from nnunetv2_ext.training.loss.label_tree_loss import LabelTreeLoss
from nnunetv2_ext.training.loss.partial_label_loss import PartialLabelLoss
from nnunetv2_ext.training.loss.source_heads_loss import HeadClasses, SourceHeadsLoss

TREE = LabelTree.from_nested({"background": {}, "body": {"liver": {}, "spleen": {}, "body_other": {}}})
CHANNELS = len(TREE)
# Float16 holds no number above 65504, and bfloat16 three digits: a million voxels are too many for both.
EDGE = 100


def partial_labels():
    return PartialLabelLoss(torch.eye(CHANNELS, dtype=torch.bool))


def deeply_supervised():
    loss = PartialLabelDeepSupervision(partial_labels(), [1.0])
    return lambda logits, label_map, annotated: loss([logits], [label_map], annotated)


def source_heads():
    # One source that annotates every leaf: `annotated` of the test.
    classes = [[value] for value in range(1, CHANNELS)]
    loss = SourceHeadsLoss([HeadClasses(classes, classes)], CHANNELS)
    return lambda logits, label_map, annotated: loss(
        logits, label_map, torch.ones_like(annotated), torch.zeros(1, dtype=torch.int64)
    )


def dice_cross_entropy():
    pytest.importorskip("monai", reason="the extra 'monai' is not installed")
    from nnunetv2_ext.training.loss.dice_ce import DiceCrossEntropy

    loss = DiceCrossEntropy()
    return lambda logits, label_map, annotated: loss(logits, label_map)


LOSSES = {
    "partial labels": partial_labels,
    "partial labels, deep supervision": deeply_supervised,
    "label tree": lambda: LabelTreeLoss(TREE),
    "label tree, SALT": lambda: LabelTreeLoss(TREE, formula="salt"),
    "heads per source": source_heads,
    "Dice and cross-entropy": dice_cross_entropy,
}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
@pytest.mark.parametrize("make_loss", LOSSES.values(), ids=LOSSES)
def test_a_million_voxels_under_autocast(make_loss, dtype, device):
    generator = torch.Generator().manual_seed(0)
    # What a network gives under autocast is in half precision; what matters is how the loss goes on from there.
    half = torch.randn((1, CHANNELS, EDGE, EDGE, EDGE), generator=generator).to(device, dtype).requires_grad_()
    full = half.detach().float().requires_grad_()
    label_map = torch.randint(0, CHANNELS, (1, 1, EDGE, EDGE, EDGE), generator=generator).to(device)
    # Leaves alone: the structures of the tree that voxels are labelled as.
    label_map[label_map == TREE.value("body")] = TREE.value("liver")
    annotated = torch.tensor([[name in TREE.leaves() for name in TREE]])
    loss = make_loss()
    expected = loss(full, label_map, annotated)
    (wanted,) = torch.autograd.grad(expected, full)
    for logits in (full, half):
        with torch.autocast(device.type, dtype=dtype):
            found = loss(logits, label_map, annotated)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
        # As GradScaler does, which keeps gradients of a millionth from vanishing in half precision.
        (gradient,) = torch.autograd.grad(found * 2.0**12, logits)
        assert gradient.dtype == logits.dtype
        torch.testing.assert_close(gradient.float() / 2.0**12, wanted, rtol=2e-2, atol=1e-9)
