import pytest
import torch

from nnunetv2_ext.training.loss.deep_supervision import PartialLabelDeepSupervision, halving_weights
from nnunetv2_ext.training.loss.partial_label_loss import PartialLabelLoss


def test_weights_halve_and_leave_the_lowest_level_out():
    assert halving_weights(4) == pytest.approx([4 / 7, 2 / 7, 1 / 7, 0])
    assert halving_weights(1) == [1]


def test_levels_are_weighted_and_a_weight_of_zero_leaves_a_zero_gradient():
    generator = torch.Generator().manual_seed(0)
    loss = PartialLabelLoss(torch.tensor([[False, True, True], [False, False, True]]))
    logits = [torch.randn(2, 2, size, size, generator=generator, requires_grad=True) for size in (8, 4, 2)]
    label_maps = [torch.randint(0, 3, (2, 1, size, size), generator=generator) for size in (8, 4, 2)]
    annotated = torch.tensor([[True, True], [False, True]])
    value = PartialLabelDeepSupervision(loss, (0.75, 0.25, 0.0))(logits, label_maps, annotated)
    single = [loss(x, y, annotated) for x, y in zip(logits, label_maps, strict=True)]
    torch.testing.assert_close(value, 0.75 * single[0] + 0.25 * single[1])
    value.backward()
    assert logits[1].grad is not None
    assert logits[1].grad.any()
    assert logits[2].grad is not None
    assert not logits[2].grad.any()


def test_a_wrong_number_of_levels_is_refused():
    loss = PartialLabelLoss(torch.tensor([[False, True]]))
    annotated = torch.ones(1, 1, dtype=torch.bool)
    with pytest.raises(ValueError, match="Expected 2 levels, but got 1 outputs"):
        PartialLabelDeepSupervision(loss, (0.5, 0.5))([torch.zeros(1, 1, 2)], [torch.zeros(1, 1, 2).int()], annotated)
    with pytest.raises(ValueError, match="weight other than 0"):
        PartialLabelDeepSupervision(loss, (0.0,))
