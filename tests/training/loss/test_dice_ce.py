from __future__ import annotations

import pytest
import torch

pytest.importorskip("monai", reason="the extra 'monai' is not installed")

from nnunetv2_ext.training.loss.dice_ce import DiceCrossEntropy


def formula(logits, labels):
    """Cross-entropy plus one minus the Dice of every class, background included, averaged over images and classes."""
    p = logits.double().softmax(1)
    y = torch.nn.functional.one_hot(labels, logits.shape[1]).movedim(-1, 1).double()
    overlap, total = (p * y).flatten(2).sum(2), (p + y).flatten(2).sum(2)
    dice = 1 - (2 * overlap + 1e-5) / (total + 1e-5)
    return dice.mean() - (y * p.log()).sum(1).mean()


def test_equals_the_formula():
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 4, 3, 4, 5), torch.randint(4, (2, 1, 3, 4, 5))
    torch.testing.assert_close(
        DiceCrossEntropy()(logits, labels).double(), formula(logits, labels[:, 0]), rtol=1e-5, atol=1e-6
    )


def test_ignored_voxels_count_nowhere():
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 4, 2, 4, 6, requires_grad=True), torch.randint(4, (2, 1, 2, 4, 6))
    labels[..., 3:] = 4
    labels[1] = 4  # nothing counts in this image
    value = DiceCrossEntropy(ignore_label=4)(logits, labels)
    expected = formula(logits[:1, ..., :3], labels[:1, 0, ..., :3])
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-6)
    value.backward()
    assert logits.grad is not None
    assert not logits.grad[..., 3:].any()
    assert not logits.grad[1].any()
    everything = DiceCrossEntropy(ignore_label=4)(logits, torch.full_like(labels, 4))
    assert float(everything.detach()) == 0
