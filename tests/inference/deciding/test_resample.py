"""Resampling and labelling in one step against torch in float64 and against nnU-Net's own resampling."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunetv2_ext.inference import resample_argmax
from nnunetv2_ext.inference.deciding import resample, tiles
from nnunetv2_ext.inference.deciding.axes import resampled_axes
from nnunetv2_ext.inference.deciding.resample import LastAboveZero, label_map, probabilities
from nnunetv2_ext.utilities.errors import UserError


@pytest.fixture(params=["compiled loop", "array operations"], autouse=True, scope="module")
def way(request):
    """Everything holds for both ways to decide: the one of CPUs, and the one of GPUs and of Pythons without numba."""
    if request.param == "compiled loop":
        pytest.importorskip("numba", reason="numba does not know this Python yet")
        yield request.param
    else:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(resample, "_compiled_loop", lambda: None)
            yield request.param


def logits_of(classes, shape, kind, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn((classes, *shape), generator=generator)
    if kind == "noise":
        return noise.to(dtype)
    if kind == "integers":  # full of ties
        return noise.round().to(dtype)
    coarse = [max(1, size // 6) for size in shape]
    smooth = torch.randn((1, classes, *coarse), generator=generator) * 4
    return (torch.nn.functional.interpolate(smooth, shape, mode="trilinear")[0] + 0.05 * noise).to(dtype)


def trilinear(logits, shape):
    return torch.nn.functional.interpolate(logits[None].double(), tuple(shape), mode="trilinear")[0]


def resample_threshold(logits, shape, order, nearest_axis=None):
    axes = resampled_axes(logits.shape[1:], shape, nearest_axis)
    return label_map(logits, axes, LastAboveZero(tuple(order)))


def resample_probabilities(logits, shape, **options):
    return probabilities(logits, resampled_axes(logits.shape[1:], shape), **options)


def check_argmax(labels, resampled, tolerance=1e-5):
    """Every label is that of a class within rounding of the largest, and the very one where there is no tie."""
    chosen = resampled.gather(0, labels.long()[None])[0]
    assert (resampled.amax(0) - chosen).max() <= tolerance
    two = resampled.topk(min(2, len(resampled)), dim=0).values
    clear = (two[0] - two[-1] > tolerance) | torch.tensor(len(resampled) == 1)
    assert torch.equal(labels.long()[clear], resampled.argmax(0)[clear])


axis_sizes = st.integers(1, 26)
shapes = st.tuples(axis_sizes, axis_sizes, axis_sizes)
kinds = st.sampled_from(["noise", "smooth", "integers"])


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 40), shapes, shapes, kinds, st.integers(0, 99))
def test_argmax_is_that_of_trilinear(classes, shape, new_shape, kind, seed):
    logits = logits_of(classes, shape, kind, seed)
    labels = resample_argmax(logits, new_shape)
    assert labels.shape == new_shape
    assert labels.dtype == torch.uint8
    check_argmax(labels, trilinear(logits, new_shape))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["noise", "smooth", "integers"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_argmax_of_other_types_and_larger_volumes(kind, dtype):
    logits = logits_of(70, (33, 40, 29), kind, dtype=dtype)
    check_argmax(resample_argmax(logits, (60, 50, 71)), trilinear(logits.float(), (60, 50, 71)))


def by_nnunet(logits, new_shape):
    """nnU-Net's resampling, which returns the type it is given, and the first of the largest."""
    from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape

    spacing = (1.0, 1.0, 1.0)
    resampled = resample_data_or_seg_to_shape(logits, new_shape, spacing, spacing, order=1, force_separate_z=False)
    assert resampled.dtype == logits.numpy().dtype
    return torch.from_numpy(resampled)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 40), shapes, shapes, kinds, st.integers(0, 99))
def test_half_precision_is_rounded_as_nnunet_rounds_it(classes, shape, new_shape, kind, seed):
    logits = logits_of(classes, shape, kind, seed, torch.float16)
    resampled = by_nnunet(logits, new_shape)
    labels, expected = resample_argmax(logits, new_shape), torch.from_numpy(resampled.numpy().argmax(0))
    unlike = labels != expected
    # Exactly in the middle of two float16 numbers, the last digit of SciPy's sum decides; halved axes are full of that.
    assert unlike.sum() <= 3 + unlike.numel() // 100
    chosen = resampled.float().gather(0, labels.long()[None])[0]
    assert ((resampled.amax(0).float() - chosen)[unlike] <= 2**-10 * resampled.abs().amax()).all()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["noise", "smooth", "integers"])
def test_half_precision_of_larger_volumes_gives_nnunets_labels(kind):
    logits = logits_of(70, (33, 40, 29), kind, dtype=torch.float16)
    expected = by_nnunet(logits, (60, 50, 71)).numpy().argmax(0)
    assert (resample_argmax(logits, (60, 50, 71)).numpy() != expected).sum() <= 2


def test_half_precision_ties_of_classes_that_lie_apart_at_every_voxel():
    # Next to a large value, numbers between two voxels are coarser than those of the smaller one.
    base = torch.where(logits_of(1, (9, 10, 11), "noise") > 1, 1000.0, 0.1).half()
    logits = torch.cat([(base.view(torch.int16) + step).view(torch.float16) for step in range(12)])
    assert (logits.argmax(0) == 11).all()
    expected = by_nnunet(logits, (23, 14, 19)).numpy().argmax(0)
    assert {10, 11} == set(np.unique(expected))
    np.testing.assert_array_equal(resample_argmax(logits, (23, 14, 19)).numpy(), expected)
    assert (resample_argmax(logits.float(), (23, 14, 19)) == 11).all()


@pytest.mark.parametrize(("shape", "new_shape"), [((20, 20, 20), (30, 30, 30)), ((21, 14, 28), (30, 20, 40))])
@pytest.mark.parametrize("kind", ["noise", "smooth", "integers"])
def test_half_precision_regions_end_where_nnunets_end(shape, new_shape, kind):
    # Whole numbers, as nnU-Net's logits are at the corners of an image, often cancel out between voxels.
    logits = logits_of(3, shape, kind, dtype=torch.float16)
    covered = by_nnunet(logits, new_shape).float().sigmoid() > 0.5
    masks = torch.stack([resample_threshold(region[None], new_shape, (1,)) for region in logits])
    unlike = masks.bool() != covered
    # Sums in float32 may leave a remainder of a few 1e-7, which even float16 can hold.
    assert unlike.sum() <= covered.numel() // 5000


def test_half_precision_that_is_not_interpolated_is_a_plain_argmax():
    logits = logits_of(50, (20, 17, 21), "integers", dtype=torch.float16)
    assert torch.equal(resample_argmax(logits, (20, 17, 21)).long(), logits.float().argmax(0))


@pytest.mark.parametrize("new_shape", [(9, 30, 30), (9, 45, 13), (3, 30, 31), (1, 77, 30)])
def test_a_class_wins_exact_ties_only_if_it_is_first(new_shape):
    logits = logits_of(4, (9, 30, 30), "smooth")
    labels = resample_argmax(torch.cat([logits] * 12), new_shape)
    assert labels.max() <= 3
    assert torch.equal(labels, resample_argmax(logits, new_shape))


def test_equal_shapes_are_a_plain_argmax():
    logits = logits_of(50, (20, 37, 41), "integers")
    assert torch.equal(resample_argmax(logits, (20, 37, 41)).long(), logits.argmax(0))


def test_a_strided_view_is_read_in_place():
    logits = logits_of(5, (20, 21, 22), "noise")
    view = logits.permute(0, 3, 2, 1)[:, 2:15, ::2]
    assert torch.equal(resample_argmax(view, (15, 15, 15)), resample_argmax(view.contiguous(), (15, 15, 15)))


@pytest.mark.parametrize(("classes", "dtype"), [(256, torch.uint8), (257, torch.int16), (300, torch.int16)])
def test_many_classes(classes, dtype):
    logits = logits_of(classes, (6, 7, 8), "noise")
    labels = resample_argmax(logits, (9, 9, 9))
    assert labels.dtype == dtype
    check_argmax(labels, trilinear(logits, (9, 9, 9)))


def test_a_single_class_and_a_single_voxel():
    assert not resample_argmax(torch.randn(1, 3, 4, 5), (6, 7, 8)).any()
    assert resample_argmax(torch.tensor([0.0, 2.0, 1.0]).view(3, 1, 1, 1), (2, 3, 4)).eq(1).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("classes", [1, 3, 60])
def test_logits_that_are_not_finite_are_refused(bad, classes):
    logits = torch.zeros(classes, 20, 20, 20)
    logits[-1, 13, 19, 7] = bad
    for call in (
        lambda: resample_argmax(logits, (40, 40, 40)),
        lambda: resample_threshold(logits, (40, 40, 40), range(1, classes + 1)),
        lambda: resample_probabilities(logits, (40, 40, 40), has_regions=False),
    ):
        with pytest.raises(UserError, match="NaN or infinity"):
            call()


def test_wrong_shapes():
    with pytest.raises(ValueError, match="classes, z, y, x"):
        resample_argmax(torch.zeros(3, 4, 5), (3, 4, 5))
    with pytest.raises(ValueError, match="classes, z, y, x"):
        resample_argmax(torch.zeros(0, 3, 4, 5), (3, 4, 5))


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 12), shapes, shapes, kinds, st.integers(0, 99))
def test_threshold_paints_in_order(regions, shape, new_shape, kind, seed):
    logits = logits_of(regions, shape, kind, seed)
    if kind == "integers":
        logits += 0.5  # whether an exact 0 lies above 0 is a matter of rounding
    order = np.random.default_rng(seed).permutation(regions) * 7 + 1
    labels = resample_threshold(logits, new_shape, order.tolist())
    resampled = trilinear(logits, new_shape)
    expected = torch.zeros(new_shape, dtype=torch.long)
    for region, label in zip(resampled, order, strict=True):
        expected[region > 0] = int(label)
    clear = resampled.abs().amin(0) > 1e-5
    assert torch.equal(labels.long()[clear], expected[clear])


def test_labels_of_regions_decide_the_type():
    logits = logits_of(2, (12, 12, 12), "smooth")
    labels = resample_threshold(logits, (20, 20, 20), (3, 1000))
    resampled = trilinear(logits, (20, 20, 20))
    expected = torch.zeros(20, 20, 20, dtype=torch.int16)
    expected[resampled[0] > 0] = 3
    expected[resampled[1] > 0] = 1000
    assert labels.dtype == torch.int16
    assert torch.equal(labels, expected)


@pytest.mark.parametrize("has_regions", [False, True])
def test_probabilities(has_regions):
    logits = logits_of(40, (14, 11, 16), "noise", dtype=torch.float16)
    for resampled, stored in ((trilinear(logits.float(), (20, 20, 33)), logits.float()), (None, logits)):
        if resampled is None:
            resampled = by_nnunet(logits, (20, 20, 33)).float()
        expected = resampled.sigmoid() if has_regions else resampled.softmax(0)
        actual = resample_probabilities(stored, (20, 20, 33), has_regions=has_regions)
        unlike = ~torch.isclose(actual, expected.float(), atol=1e-6, rtol=1e-5)
        # Sums in float32 may fall on the other side of the middle of two float16 numbers.
        assert unlike.float().mean() <= (1e-3 if stored is logits else 0)


@pytest.mark.parametrize(
    ("shape", "new_shape", "current", "new"),
    [
        ((8, 20, 24), (19, 31, 30), (1.5, 1.5, 1.5), (0.7, 1.0, 1.2)),
        ((8, 20, 24), (5, 31, 30), (4.0, 1.0, 1.0), (6.4, 0.7, 0.8)),
        ((8, 20, 24), (21, 31, 30), (5.0, 1.0, 1.0), (2.0, 0.7, 0.8)),
        ((20, 8, 24), (31, 13, 30), (1.0, 5.0, 1.0), (0.7, 3.0, 0.8)),
        ((20, 24, 8), (31, 30, 11), (1.0, 1.0, 1.0), (0.7, 0.8, 5.0)),
        ((8, 20, 24), (8, 31, 30), (5.0, 1.0, 1.0), (5.0, 0.7, 0.8)),
        ((20, 24, 8), (13, 15, 7), (1.0, 1.0, 1.0), (1.5, 1.6, 1.1)),
        ((1, 20, 24), (1, 31, 30), (999.0, 1.0, 1.0), (999.0, 0.7, 0.8)),
    ],
)
def test_equals_nnunet(shape, new_shape, current, new):
    from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape

    from nnunetv2_ext.inference.deciding.axes import separate_axis

    logits = logits_of(9, shape, "smooth")
    stock = resample_data_or_seg_to_shape(
        logits.numpy(), new_shape, current, new, is_seg=False, order=1, order_z=0, force_separate_z=None
    )
    labels = resample_argmax(logits, new_shape, nearest_axis=separate_axis(current, new))
    check_argmax(labels, torch.from_numpy(stock).double())
    order = list(range(1, 10))
    expected = np.zeros(new_shape, dtype=np.uint8)
    for label in order:
        expected[stock[label - 1] > 0] = label
    regions = resample_threshold(logits, new_shape, order, nearest_axis=separate_axis(current, new))
    assert (regions.numpy() != expected).mean() < 1e-4


_MKLDNN: Any = torch.backends.mkldnn


class _Newer:
    """Torch's newer interface for what the two functions of the older one do."""

    products: Any = _MKLDNN.matmul

    @classmethod
    def set(cls, precision):
        cls.products.fp32_precision = {"medium": "bf16", "highest": "none"}[precision]

    @classmethod
    def get(cls):
        return {"bf16": "medium", "none": "highest"}[cls.products.fp32_precision]


@pytest.mark.parametrize("interface", ["older", "newer"])
def test_the_networks_precision_and_threads_are_left_alone(monkeypatch, interface):
    set_precision, get_precision = torch.set_float32_matmul_precision, torch.get_float32_matmul_precision
    if interface == "newer":
        set_precision, get_precision = _Newer.set, _Newer.get
    logits = logits_of(30, (20, 20, 20), "noise")
    expected = resample_argmax(logits, (37, 37, 37))
    threads = 3
    torch.set_num_threads(threads)
    set_precision("medium")
    used = set()
    original = tiles.Beam.highest_and_lowest
    monkeypatch.setattr(
        tiles.Beam,
        "highest_and_lowest",
        lambda beam: used.add(_Newer.products.fp32_precision) or original(beam),
    )
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            labels = resample_argmax(logits, (37, 37, 37))
        assert get_precision() == "medium"
    finally:
        set_precision("highest")
    assert used == {"ieee"}
    assert torch.equal(labels, expected)
    assert torch.get_num_threads() == threads
    seen = []
    thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert seen == [threads]


def test_only_possible_classes_are_interpolated(monkeypatch, way):
    interpolated = []
    if way == "compiled loop":
        decide_tile = resample._compiled_loop()
        assert decide_tile is not None
        monkeypatch.setattr(
            resample,
            "_compiled_loop",
            lambda: (
                lambda logits, classes, *rest: interpolated.append(len(classes)) or decide_tile(logits, classes, *rest)
            ),
        )
    else:
        original = tiles.Beam.resampled
        monkeypatch.setattr(
            tiles.Beam,
            "resampled",
            lambda beam, tile, classes: interpolated.append(len(classes)) or original(beam, tile, classes),
        )
    centres = torch.rand(100, 3, 1, 1, 1, generator=torch.Generator().manual_seed(0)) * 48
    distances = (torch.stack(torch.meshgrid(*[torch.arange(48.0)] * 3, indexing="ij")) - centres).pow(2).sum(1).sqrt()
    logits = (4 - distances).clamp(min=-1)
    logits[0] = 0
    check_argmax(resample_argmax(logits, (96, 96, 96)), trilinear(logits, (96, 96, 96)))
    number_of_tiles = 5 * 5 * 2
    assert 0 < sum(interpolated) < 0.15 * 100 * number_of_tiles


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["noise", "smooth"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_argmax_threshold_and_probabilities_on_any_device(kind, dtype, device):
    logits, shape = logits_of(60, (40, 41, 42), kind, dtype=dtype), (70, 60, 50)
    there = logits.to(device)
    labels = resample_argmax(there, shape)
    assert labels.device.type == device.type
    check_argmax(labels.cpu(), trilinear(logits, shape), tolerance=1e-5 if dtype == torch.float32 else 2e-2)
    # Where two classes are equal, or one is zero, the last digit of a device's arithmetic decides.
    order = range(1, 61)
    thresholded = resample_threshold(there, shape, order).cpu()
    assert (thresholded == resample_threshold(logits, shape, order)).float().mean() > 0.9999
    options = {"has_regions": False}
    found = resample_probabilities(there.float(), shape, **options).cpu()
    torch.testing.assert_close(found, resample_probabilities(logits.float(), shape, **options), rtol=1e-4, atol=1e-5)
