import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunetv2_ext.architectures.stunet import STUNet
from nnunetv2_ext.training.loss.deep_supervision import PartialLabelDeepSupervision, halving_weights
from nnunetv2_ext.training.loss.partial_label_loss import PartialLabelLoss


def formula(logits, label_map, annotated, regions, smooth, ignore_label=None):
    """Eq. (2) of the paper in float64, written for reading."""
    regions = torch.as_tensor(regions)
    probability = torch.sigmoid(logits.double())
    valid = torch.ones(label_map[:, 0].shape, dtype=torch.float64)
    if ignore_label is not None:
        valid = (label_map[:, 0] != ignore_label).double()
    total = logits.double().sum() * 0
    for c in range(logits.shape[1]):
        images = [b for b in range(logits.shape[0]) if annotated[b, c]]
        if not images:
            continue
        cross_entropy, intersection, sums = torch.zeros((3,), dtype=torch.float64)
        for b in images:
            members = [v for v in range(regions.shape[1]) if regions[c, v] and v != ignore_label]
            y = torch.isin(label_map[b, 0], torch.tensor(members, dtype=label_map.dtype)).double()
            p = probability[b, c]
            voxelwise = -(y * torch.log(p) + (1 - y) * torch.log1p(-p))
            cross_entropy = cross_entropy + (voxelwise * valid[b]).sum() / max(float(valid[b].sum()), 1.0)
            intersection = intersection + (p * y * valid[b]).sum()
            sums = sums + ((p + y) * valid[b]).sum()
        denominator = sums + smooth
        dice = (2 * intersection + smooth) / denominator if denominator > 0 else torch.zeros_like(denominator)
        total = total + cross_entropy - dice
    return total


def random_case(seed, batch, classes, values, shape, ignore, annotated_share):
    generator = torch.Generator().manual_seed(seed)
    regions = torch.rand(classes, values, generator=generator) < 0.35
    regions[:, 0] = False
    if classes > 1:
        regions[0] = False  # a class that no label value explains stays empty
    logits = 3 * torch.randn(batch, classes, *shape, generator=generator)
    highest = values + 1 if ignore else values
    label_map = torch.randint(0, highest, (batch, 1, *shape), generator=generator).to(torch.int16)
    annotated = torch.rand(batch, classes, generator=generator) < annotated_share
    return logits, label_map, annotated, regions


@given(
    seed=st.integers(0, 10_000),
    batch=st.integers(1, 4),
    classes=st.integers(1, 7),
    values=st.integers(2, 6),
    shape=st.sampled_from([(5,), (4, 3), (3, 2, 4)]),
    ignore=st.booleans(),
    annotated_share=st.sampled_from([0.0, 0.3, 0.7, 1.0]),
    smooth=st.sampled_from([0.0, 1e-5, 1.0]),
)
@settings(max_examples=150, deadline=None)
def test_value_and_gradient_equal_the_formula(seed, batch, classes, values, shape, ignore, annotated_share, smooth):
    logits, label_map, annotated, regions = random_case(seed, batch, classes, values, shape, ignore, annotated_share)
    ignore_label = values if ignore else None

    ours, reference = logits.clone().requires_grad_(), logits.double().requires_grad_()
    loss = PartialLabelLoss(regions, ignore_label=ignore_label, smooth=smooth)
    value = loss(ours, label_map, annotated)
    expected = formula(reference, label_map, annotated, regions, smooth, ignore_label)
    value.backward()
    expected.backward()

    # The terms of the sum may cancel, hence relative to their magnitude.
    assert value.item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-5 * max(1, annotated.any(0).sum().item()))
    scale = reference.grad.abs().max().clamp_min(1e-12)
    torch.testing.assert_close(ours.grad.double(), reference.grad, rtol=1e-5, atol=1e-5 * scale.item())


def test_gradcheck():
    logits, label_map, annotated, regions = random_case(1, 2, 4, 4, (3, 2), True, 0.7)
    loss = PartialLabelLoss(regions, ignore_label=4, smooth=1.0)
    assert torch.autograd.gradcheck(
        lambda x: 1.7 * loss(x, label_map, annotated), logits.double().requires_grad_(), atol=1e-8, rtol=1e-6
    )


def test_runs_of_several_channels_equal_single_ones(monkeypatch):
    import nnunetv2_ext.training.loss.annotated_channels as module

    logits, label_map, annotated, regions = random_case(2, 2, 9, 5, (4, 4, 4), True, 0.8)
    results = []
    for buffer in (1, 3 * 64, 2**18):
        monkeypatch.setattr(module, "_BUFFER_VOXELS_CPU", buffer)
        x = logits.clone().requires_grad_()
        value = PartialLabelLoss(regions, ignore_label=5)(x, label_map, annotated)
        value.backward()
        results.append((value.detach(), x.grad))
    for value, gradient in results[1:]:
        torch.testing.assert_close(value, results[0][0], rtol=1e-6, atol=0)
        torch.testing.assert_close(gradient, results[0][1], rtol=1e-6, atol=1e-9)


def test_only_evaluated_channels_give_the_same_loss():
    logits, label_map, annotated, regions = random_case(3, 3, 8, 5, (4, 3, 2), False, 0.3)
    annotated[:, [0, 5]] = False
    classes = annotated.any(0).nonzero().flatten()
    loss = PartialLabelLoss(regions)
    whole, part = logits.clone().requires_grad_(), logits[:, classes].clone().requires_grad_()
    value = loss(part, label_map, annotated, classes)
    expected = loss(whole, label_map, annotated)
    (value + expected).backward()
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(part.grad, whole.grad[:, classes])


def test_nothing_annotated_costs_and_moves_nothing():
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    label_map = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    value = PartialLabelLoss(np.eye(3, 4, 1, dtype=bool))(logits, label_map, torch.zeros(2, 3, dtype=torch.bool))
    value.backward()
    assert value.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_an_image_that_is_ignored_everywhere_adds_nothing():
    logits = torch.randn(2, 1, 6, requires_grad=True)
    label_map = torch.tensor([[[0, 1, 1, 0, 1, 0]], [[2] * 6]])
    loss = PartialLabelLoss(torch.tensor([[False, True]]), ignore_label=2)
    annotated = torch.ones(2, 1, dtype=torch.bool)
    value = loss(logits, label_map, annotated)
    value.backward()
    torch.testing.assert_close(value, loss(logits[:1], label_map[:1], annotated[:1]))
    assert logits.grad is not None
    assert not logits.grad[1].any()
    assert logits.grad[0].all()


def test_extreme_logits_stay_finite_and_exact():
    logits = torch.tensor([[[-200.0, 200.0, -30.0, 30.0]]], requires_grad=True)
    label_map = torch.tensor([[[1, 1, 0, 0]]])
    PartialLabelLoss(torch.tensor([[False, True]]))(logits, label_map, torch.ones(1, 1, dtype=torch.bool)).backward()
    # Saturated probabilities: only the cross-entropy of the two wrong voxels still pulls, with its full 1 / 4.
    expected = torch.tensor([-0.25, 0, 0, 0.25])
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad.flatten(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_computed_in_float32(dtype):
    logits, label_map, annotated, regions = random_case(4, 2, 5, 4, (8, 8, 8), False, 0.8)
    half = logits.to(dtype).requires_grad_()
    full = half.detach().float().requires_grad_()
    loss = PartialLabelLoss(regions)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(half, label_map, annotated)
    expected = loss(full, label_map, annotated)
    (value + expected).backward()
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=0)
    assert half.grad.dtype == dtype
    torch.testing.assert_close(half.grad, full.grad.to(dtype))


def test_an_absent_class_is_pushed_down_by_the_default_smooth():
    label_map = torch.zeros(1, 1, 1000, dtype=torch.int16)
    gradients = {}
    for smooth in (0.0, PartialLabelLoss(torch.tensor([[False, True]])).smooth):
        logits = torch.zeros(1, 1, 1000, requires_grad=True)
        PartialLabelLoss(torch.tensor([[False, True]]), smooth=smooth)(
            logits, label_map, torch.ones(1, 1, dtype=torch.bool)
        ).backward()
        assert logits.grad is not None
        gradients[smooth] = logits.grad.sum().item()
    # Cross-entropy alone gives sum p / I = 0.5; the Dice adds smooth * sum p (1 - p) / (sum p + smooth)^2.
    assert gradients.pop(0.0) == pytest.approx(0.5, rel=1e-5)
    assert gradients.popitem()[1] == pytest.approx(0.5 + 250 / 501**2, rel=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label_map": torch.zeros(2, 1, 4, dtype=torch.int16)}, "label map"),
        ({"label_map": torch.zeros(2, 3, 5, dtype=torch.int16)}, "label map"),
        ({"annotated": torch.ones(2, 2, dtype=torch.bool)}, "annotated"),
        ({"classes": torch.tensor([0, 1])}, "channels"),
        ({"classes": torch.tensor([0]), "logits": torch.zeros(2, 1, 5)}, r"Annotated classes \[1, 2\]"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(change, message):
    arguments = {
        "logits": torch.zeros(2, 3, 5),
        "label_map": torch.zeros(2, 1, 5, dtype=torch.int16),
        "annotated": torch.ones(2, 3, dtype=torch.bool),
        **change,
    }
    with pytest.raises(ValueError, match=message):
        PartialLabelLoss(torch.eye(3, 4).bool())(**arguments)


def spread_loss():
    """See `assert_spreading_changes_nothing`; a rank may hold only an image that annotates nothing."""
    network = STUNet(
        1, 6, features_per_stage=[4, 4, 4], n_blocks_per_stage=1, strides=[[1, 1], [2, 2], [2, 2]],
        deep_supervision=True,
    )  # fmt: skip
    images = torch.randn(4, 1, 8, 8).double()
    label_maps = [torch.randint(0, 6, (4, 1, 8 // 2**level, 8 // 2**level)) for level in range(2)]
    annotated = torch.rand(4, 6) < 0.4
    annotated[3] = False
    # The lowest level has weight 0, yet its heads must not be missing from the exchange of gradients.
    loss = PartialLabelDeepSupervision(
        PartialLabelLoss(torch.rand(6, 6) < 0.4, ignore_label=5, smooth=1.0), halving_weights(2)
    )

    def value(network, mine):
        classes = annotated[mine].any(0).nonzero().flatten()
        classes = classes if len(classes) else torch.tensor([0])
        outputs = network(images[mine], channels=classes)
        return loss(outputs, [maps[mine] for maps in label_maps], annotated[mine], classes)

    return network, value


@pytest.mark.slow
def test_loss_and_gradient_do_not_depend_on_how_the_batch_is_spread(assert_spreading_changes_nothing):
    assert_spreading_changes_nothing()
