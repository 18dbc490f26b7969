"""The loss of heads per source, against a formula in float64 and nnU-Net's own loss."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from nnunetv2_ext.architectures.multi_head import MultiHeadPlainConvUNet
from nnunetv2_ext.training.loss.deep_supervision import PartialLabelDeepSupervision, halving_weights
from nnunetv2_ext.training.loss.source_heads_loss import HeadClasses, SourceHeadsLoss

#: Source 0: organ {1, 2} (class 0) with its tumour {2} (class 1); source 1: classes 2 to 4.
HEADS = (HeadClasses(((1,), (2,)), ((0,), (0, 1))), HeadClasses(((3,), (4, 5), (6,)), ((2,), (3,), (4,))))
VALUES = ((0, 1, 2), (0, 3, 4, 5, 6))
IGNORE = 7


def formula(logits, label_map, annotated, sources):
    """For every image: cross-entropy and Dice of the classes that it tells apart, in float64, one after the other."""
    total, start = logits.double().sum() * 0, 0
    for labels, known, source in zip(label_map, annotated.tolist(), sources.tolist(), strict=True):
        head = HEADS[source]
        size = 1 + len(head.values)
        exponentials = logits[0, start : start + size].double().exp()
        start += size
        # A state of a voxel is the set of annotated classes that it belongs to.
        states = [frozenset()] + [frozenset(c for c in classes if known[c]) for classes in head.classes]
        if set(states) == {frozenset()}:
            continue
        probability = {
            state: sum(e for e, other in zip(exponentials, states, strict=True) if other == state) / exponentials.sum(0)
            for state in dict.fromkeys(states)
        }
        state_of = {value: state for values, state in zip(head.values, states[1:], strict=True) for value in values}
        voxels = [(z, int(v)) for z, v in enumerate(labels.flatten()) if v != IGNORE]
        flat = {state: p.flatten() for state, p in probability.items()}
        truth = {z: state_of.get(value, frozenset()) for z, value in voxels}
        loss = sum((-flat[truth[z]][z].log() for z, _ in voxels), torch.zeros(())) / max(1, len(voxels))
        dice = []
        for state, p in flat.items():
            if state:
                overlap = sum((p[z] for z in truth if truth[z] == state), torch.zeros(()))
                sizes = sum((p[z] for z in truth), torch.zeros(())) + sum(truth[z] == state for z in truth)
                dice.append(2 * overlap / sizes if voxels else torch.zeros(()))
        total = total + loss - sum(dice) / len(dice)
    return total


def random_case(seed, sources, shape, ignore, annotated_share):
    generator = torch.Generator().manual_seed(seed)
    sources = torch.tensor(sources)
    outputs = sum(1 + len(HEADS[source].values) for source in sources.tolist())
    logits = 2 * torch.randn(1, outputs, *shape, generator=generator)
    label_maps = []
    for source in sources.tolist():
        choices = torch.tensor([*VALUES[source], *([IGNORE] if ignore else [])])
        label_maps.append(choices[torch.randint(0, len(choices), (1, *shape), generator=generator)])
    annotated = torch.rand(len(sources), 5, generator=generator) < annotated_share
    return logits, torch.stack(label_maps).to(torch.int16), annotated, sources


@given(
    seed=st.integers(0, 10_000),
    sources=st.lists(st.integers(0, 1), min_size=1, max_size=3),
    shape=st.sampled_from([(7,), (4, 3), (3, 2, 4)]),
    ignore=st.booleans(),
    annotated_share=st.sampled_from([0.0, 0.5, 1.0]),
)
@settings(max_examples=60, deadline=None)
def test_value_and_gradient_equal_the_formula(seed, sources, shape, ignore, annotated_share):
    logits, label_map, annotated, sources = random_case(seed, sources, shape, ignore, annotated_share)
    ours, reference = logits.clone().requires_grad_(), logits.double().requires_grad_()
    value = SourceHeadsLoss(HEADS, 7, ignore_label=IGNORE if ignore else None)(ours, label_map, annotated, sources)
    expected = formula(reference, label_map, annotated, sources)
    value.backward()
    expected.backward()
    assert value.item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-5)
    torch.testing.assert_close(ours.grad.double(), reference.grad, rtol=1e-4, atol=1e-6)


def test_every_image_costs_what_nnunets_loss_of_its_head_says():
    from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
    from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss

    logits, label_map, annotated, sources = random_case(3, [1, 0, 1], (4, 5, 6), False, 1.0)
    value = SourceHeadsLoss(HEADS, 7)(logits, label_map, annotated, sources)
    dice = {"batch_dice": False, "smooth": 0, "do_bg": False, "ddp": False}
    stock = DC_and_CE_loss(dice, {}, dice_class=MemoryEfficientSoftDiceLoss)
    expected, start = 0.0, 0
    for labels, source in zip(label_map, sources.tolist(), strict=True):
        size = 1 + len(HEADS[source].values)
        own = torch.zeros_like(labels)
        for output, values in enumerate(HEADS[source].values, 1):
            own[torch.isin(labels, torch.tensor(values, dtype=labels.dtype))] = output
        expected += stock(logits[:, start : start + size], own[None]).item()
        start += size
    assert value.item() == pytest.approx(expected, rel=1e-5)


def test_a_class_that_is_not_annotated_joins_the_background():
    """Whatever a source's head says of it, voxels of background cost nothing for its sake."""
    annotated = torch.tensor([[False, False, True, True, False]])
    label_map = torch.zeros(1, 1, 8, dtype=torch.int64)
    logits = torch.full((1, 4, 8), -50.0)
    logits[:, 3] = 50.0  # certain of the class that this image does not annotate
    logits.requires_grad_()
    value = SourceHeadsLoss(HEADS, 7)(logits, label_map, annotated, torch.tensor([1]))
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-6)
    assert logits.grad is not None
    assert logits.grad.abs().max() < 1e-6


@pytest.mark.parametrize("shape", [(1, 3, 4), (2, 4, 4), (1, 4, 5)])
def test_logits_that_do_not_fit_are_refused(shape):
    label_map, annotated = torch.zeros(1, 1, 4, dtype=torch.int64), torch.ones(1, 5, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"Expected logits \(1, 4, ...\)"):
        SourceHeadsLoss(HEADS, 7)(torch.zeros(shape), label_map, annotated, torch.tensor([1]))


def spread_loss():
    """See `assert_spreading_changes_nothing`; one image annotates nothing."""
    pair = (HEADS[0], HeadClasses(((3,), (4,)), ((2,), (3,))))
    network = MultiHeadPlainConvUNet(
        1, 0, heads={"000": 3, "001": 3}, stems={"000": 1, "001": 1}, n_stages=3, features_per_stage=[4, 4, 4],
        conv_op=nn.Conv2d, kernel_sizes=[[3, 3]] * 3, strides=[[1, 1], [2, 2], [2, 2]], n_conv_per_stage=[2, 1, 1],
        n_conv_per_stage_decoder=[1, 1], conv_bias=True, norm_op=nn.InstanceNorm2d, norm_op_kwargs={"affine": True},
        nonlin=nn.LeakyReLU, deep_supervision=True,
    )  # fmt: skip
    images, sources = torch.randn(4, 1, 8, 8).double(), torch.tensor([0, 1, 1, 1])
    label_maps = [torch.randint(0, 3, (4, 1, 8 // 2**level, 8 // 2**level)) for level in range(2)]
    second = (sources == 1)[:, None, None, None]
    label_maps = [torch.where((maps > 0) & second, maps + 2, maps) for maps in label_maps]
    annotated = torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 0], [0, 0, 0, 0]]).bool()
    loss = PartialLabelDeepSupervision(SourceHeadsLoss(pair, 4), halving_weights(2))

    def value(network, mine):
        outputs = network(images[mine], sources[mine])
        return loss(outputs, [maps[mine] for maps in label_maps], annotated[mine], sources[mine])

    return network, value


@pytest.mark.slow
def test_loss_and_gradient_do_not_depend_on_how_the_batch_is_spread(assert_spreading_changes_nothing):
    assert_spreading_changes_nothing()
