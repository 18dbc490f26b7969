"""Streaming against nnU-Net's own sliding window with the same tiny networks."""

from __future__ import annotations

import copy
import itertools
import weakref
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from nnunetv2_ext.inference.windows import ring
from nnunetv2_ext.inference.windows.sliding_window import StreamingSlidingWindow
from nnunetv2_ext.inference.windows.window_network import WindowNetwork
from nnunetv2_ext.utilities.errors import UserError


def tiny_network(classes, dimensions=3, seed=0):
    torch.manual_seed(seed)
    convolution = torch.nn.Conv3d if dimensions == 3 else torch.nn.Conv2d
    return torch.nn.Sequential(
        convolution(2, 4, 3, padding=1), torch.nn.LeakyReLU(), convolution(4, classes, 3, padding=1)
    ).eval()


@pytest.fixture(autouse=True)
def one_thread(threads_of_torch):
    """nnU-Net computes with `nnUNet_def_n_proc` threads at most, and the last digits of a network depend on them."""
    torch.set_num_threads(1)


def stock_logits(network, classes, image, patch_size, step_size=0.5, mirror_axes=None, folds=(), device="cpu"):
    """nnU-Net's logits; of several folds if there are more networks than the first."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(
        tile_step_size=step_size,
        use_mirroring=mirror_axes is not None,
        perform_everything_on_device=torch.device(device).type == "cuda",
        device=torch.device(device),
        allow_tqdm=False,
    )
    predictor.network = copy.deepcopy(network)
    predictor.configuration_manager = SimpleNamespace(patch_size=list(patch_size))
    predictor.label_manager = SimpleNamespace(num_segmentation_heads=classes)
    predictor.allowed_mirroring_axes = mirror_axes
    predictor.list_of_parameters = [fold.state_dict() for fold in (network, *folds)]
    return predictor.predict_logits_from_preprocessed_data(image).cpu()


def exact_logits(network, classes, image, patch_size, step_size=0.5):
    """Every window added up in float64, written as the formula says it: sum(g * f) / sum(g)."""
    from nnunetv2.inference.sliding_window_prediction import compute_gaussian, compute_steps_for_sliding_window

    gaussian = compute_gaussian(tuple(patch_size), 1 / 8, 10, torch.float16, torch.device("cpu")).double()
    total = torch.zeros((classes, *image.shape[1:]), dtype=torch.float64)
    weight = torch.zeros(image.shape[1:], dtype=torch.float64)
    steps = compute_steps_for_sliding_window(image.shape[1:], patch_size, step_size)
    with torch.no_grad():
        for position in np.stack(np.meshgrid(*steps, indexing="ij"), -1).reshape(-1, 3):
            z, y, x = (slice(a, a + p) for a, p in zip(position.tolist(), patch_size, strict=True))
            total[:, z, y, x] += network(image[:, z, y, x][None])[0].double() * gaussian
            weight[z, y, x] += gaussian
    return total / weight


def check_like_stock(logits, stock, window):
    """Float32 sums equal nnU-Net's to half precision where half precision can hold the weights.

    At the corners of the image a window's Gaussian falls to 6e-8, the smallest half-precision number: there nnU-Net's
    weighted sums, and so its logits, are rounded to integers.
    """
    one_window = window.window_weights()
    plan = window.plan(logits.shape[1:])
    total = torch.zeros(plan.padded_shape, device=one_window.device)
    for z, y, x in itertools.product(*plan.starts):
        depth, height, width = plan.patch_size
        total[z : z + depth, y : y + height, x : x + width] += one_window
    heavy = (total[plan.inside] > 0.02).cpu()
    assert heavy.float().mean() > 0.5
    torch.testing.assert_close(logits[:, heavy], stock[:, heavy], atol=5e-3, rtol=5e-3)
    torch.testing.assert_close(logits, stock, atol=0.6, rtol=0.1)


def random_image(shape, seed=0):
    return torch.randn((2, *shape), generator=torch.Generator().manual_seed(seed))


def check_order(slabs, size, axis):
    """The slabs cover all planes, each once, in order."""
    stops = [0]
    for slab in slabs:
        assert slab.axis == axis
        assert slab.start == stops[-1] < slab.stop
        assert slab.logits.shape[axis + 1] == slab.stop - slab.start
        stops.append(slab.stop)
    assert stops[-1] == size


@pytest.mark.parametrize(
    ("shape", "patch_size", "step_size", "axis"),
    [
        ((37, 24, 29), (12, 16, 14), 0.5, None),
        ((37, 24, 29), (12, 16, 14), 0.5, 1),
        ((27, 24, 29), (12, 16, 14), 0.8, 2),
        ((27, 24, 29), (12, 24, 14), 1.0, None),
        ((9, 40, 13), (12, 16, 14), 0.5, None),
        ((9, 30, 13), (12, 16, 14), 0.5, 0),
        ((1, 20, 11), (12, 16, 14), 0.5, None),
        ((21, 9, 23), (12, 16, 12), 0.3, None),
    ],
)
def test_equals_nnunet(shape, patch_size, step_size, axis, device):
    network, image = tiny_network(5).to(device), random_image(shape)
    window = StreamingSlidingWindow(network, 5, patch_size, step_size, axis=axis, device=device)
    check_order(window.slabs(image), shape[window.plan(shape).axis], window.plan(shape).axis)
    logits = window.logits(image).cpu()
    stock = stock_logits(network, 5, image, patch_size, step_size, device=device).float()
    assert logits.shape == stock.shape
    check_like_stock(logits, stock, window)


@pytest.mark.parametrize("step_size", [0.3, 0.5, 0.8])
def test_sums_are_exact_to_float32(step_size):
    network, image = tiny_network(4), random_image((37, 24, 29))
    exact = exact_logits(network, 4, image, (12, 16, 14), step_size)
    streamed = StreamingSlidingWindow(network, 4, (12, 16, 14), step_size).logits(image)
    torch.testing.assert_close(streamed.double(), exact, atol=2e-6, rtol=1e-5)
    stock = stock_logits(network, 4, image, (12, 16, 14), step_size).double()
    assert (streamed - exact).abs().max() < 0.05 * (stock - exact).abs().max()


@settings(deadline=None, max_examples=25)
@given(
    st.tuples(*[st.integers(1, 20)] * 3),
    st.tuples(*[st.integers(1, 8)] * 3),
    st.sampled_from([0.25, 0.5, 0.7, 1.0]),
    st.sampled_from([None, 0, 1, 2]),
)
def test_a_network_that_copies_gives_the_image_back(shape, patch_size, step_size, axis):
    image = random_image(shape)
    window = StreamingSlidingWindow(lambda x: x, 2, patch_size, step_size, axis=axis)
    plan = window.plan(shape)
    seen = []
    torch.testing.assert_close(window.logits(image, progress=seen.append), image, atol=1e-5, rtol=1e-5)
    assert sum(seen) == plan.num_windows
    assert (
        np.prod(plan.buffer_shape) * plan.padded_shape[plan.axis]
        == np.prod(plan.padded_shape) * plan.patch_size[plan.axis]
    )


HALF_PRECISION = {
    "several windows along all axes": {"shape": (37, 24, 29)},
    "another step": {"shape": (37, 24, 29), "step_size": 0.3},
    "one window along z": {"shape": (9, 40, 33)},
    "one window along z and y": {"shape": (12, 13, 43)},
    "smaller than the window": {"shape": (5, 10, 8)},
    "mirroring": {"shape": (20, 24, 29), "mirror_axes": (0, 1, 2)},
    "mirroring of two axes": {"shape": (20, 24, 29), "mirror_axes": (0, 2)},
    "two folds": {"shape": (20, 24, 29), "folds": 2},
    "three folds, mirroring": {"shape": (20, 24, 29), "folds": 3, "mirror_axes": (1, 2)},
    "2d": {"shape": (5, 24, 29), "patch_size": (16, 14)},
    "2d, three folds, mirroring": {"shape": (5, 24, 29), "patch_size": (16, 14), "folds": 3, "mirror_axes": (0, 1)},
}


def check_bit_by_bit(shape, patch_size=(12, 16, 14), step_size=0.5, folds=1, mirror_axes=None, classes=5, device="cpu"):
    networks = [tiny_network(classes, len(patch_size), seed).to(device) for seed in range(folds)]
    image = random_image(shape)
    window = StreamingSlidingWindow(
        [WindowNetwork([network], mirror_axes) for network in networks],
        classes,
        patch_size,
        step_size,
        device=device,
        dtype=torch.float16,
    )
    stock = stock_logits(networks[0], classes, image, patch_size, step_size, mirror_axes, networks[1:], device)
    logits = window.logits(image).cpu()
    assert logits.dtype == stock.dtype == torch.float16
    assert torch.equal(logits, stock)


@pytest.mark.parametrize("case", HALF_PRECISION.values(), ids=HALF_PRECISION)
def test_half_precision_is_nnunets_bit_by_bit(case, device):
    check_bit_by_bit(**case, device=device)


@settings(deadline=None, max_examples=20)
@given(
    st.tuples(*[st.integers(1, 20)] * 3),
    st.tuples(*[st.integers(3, 8)] * 3),
    st.sampled_from([0.3, 0.5, 0.7, 1.0]),
    st.integers(1, 3),
)
def test_half_precision_of_any_shape(shape, patch_size, step_size, folds):
    check_bit_by_bit(shape, patch_size, step_size, folds, classes=3)


class _Memory(TorchDispatchMode):
    """Bytes of the tensors that are made of nothing: now, and at most."""

    def __init__(self):
        super().__init__()
        self.now = self.most = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        if function in (torch.ops.aten.zeros.default, torch.ops.aten.new_zeros.default):
            self._count(made.nbytes)
            weakref.finalize(made, self._count, -made.nbytes)
        return made

    def _count(self, number):
        self.now += number
        self.most = max(self.most, self.now)


@pytest.mark.parametrize("shape", [(12, 18, 16), (20, 16, 14), (15, 17, 16), (60, 16, 14)])
def test_five_folds_take_no_more_memory_than_nnunets(shape):
    """nnU-Net holds the logits of the folds before, and those of the fold at work, of the whole image."""
    networks, classes = [tiny_network(5, seed=seed) for seed in range(5)], 5
    window = StreamingSlidingWindow(networks, classes, (12, 16, 14), dtype=torch.float16)
    with _Memory() as memory:
        for _ in window.slabs(random_image(shape)):
            pass
    of_windows = 2 * 2 * int(np.prod(shape))  # the sums of weights
    assert memory.most <= 2 * 2 * classes * int(np.prod(shape)) + of_windows
    check_bit_by_bit(shape, folds=5)


def test_progress_moves_evenly_over_folds_that_run_in_turn():
    """Where one fold is predicted after the other, the bar would stand still until the last."""
    seen, marks = [], []

    def fold(number):
        def network(window):
            marks.append((number, sum(seen)))
            return window

        return network

    window = StreamingSlidingWindow([fold(number) for number in range(5)], 2, (12, 16, 14), dtype=torch.float16)
    shape = (20, 24, 14)
    window.logits(random_image(shape), progress=seen.append)
    windows = window.plan(shape).num_windows
    assert [number for number, _ in marks] == [number for number in range(5) for _ in range(windows)]
    assert [done for _, done in marks] == [passes // 5 for passes in range(5 * windows)]
    assert sum(seen) == windows


def test_half_precision_in_pieces_of_a_few_classes(monkeypatch):
    monkeypatch.setitem(ring._NUMBERS_AT_ONCE, "cpu", 2 * 12 * 16 * 14)
    check_bit_by_bit((20, 24, 29), classes=5)


def test_half_precision_keeps_nnunets_order_of_windows():
    window = StreamingSlidingWindow(lambda x: x, 1, (16, 16, 16), dtype=torch.float16)
    # Along y or x the ring would be smaller, but windows would be added up in another order.
    assert window.plan((20, 100, 80)).axis == 0
    assert window.plan((16, 20, 300)).axis == 1
    assert window.plan((16, 16, 300)).axis == 2
    assert window.plan((16, 16, 16)).axis == 0


def test_half_precision_of_windows_of_half_precision():
    """On CUDA the network's logits are in half precision, and so are nnU-Net's products."""

    class Half(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = tiny_network(4)

        def forward(self, window):
            return self.inner(window).half()

    network, image = Half(), random_image((20, 24, 29))
    window = StreamingSlidingWindow(network, 4, (12, 16, 14), dtype=torch.float16)
    assert torch.equal(window.logits(image), stock_logits(network, 4, image, (12, 16, 14)))


def test_sums_that_half_precision_cannot_hold():
    image = 3000 * random_image((20, 17, 19))
    options: dict[str, Any] = {"num_classes": 2, "patch_size": (12, 16, 14)}
    with pytest.raises(UserError, match="--sums float32"):
        StreamingSlidingWindow(lambda x: x, **options, dtype=torch.float16).logits(image)
    torch.testing.assert_close(StreamingSlidingWindow(lambda x: x, **options).logits(image), image)


def test_half_precision_of_windows_that_are_skipped():
    image = torch.zeros(1, 40, 20, 20)
    image[:, 30:33] = 1
    window = StreamingSlidingWindow(
        [lambda x: x, lambda x: 3 * x], 1, (8, 20, 20), fill=torch.tensor([-4.0]), dtype=torch.float16
    )
    logits = window.logits(image, image[0] > 0)
    assert (logits[0, :24] == -4).all()
    torch.testing.assert_close(logits[:, 30:33], 2 * image[:, 30:33].half(), atol=0.01, rtol=0.01)


@pytest.mark.parametrize("mirror_axes", [(0, 1, 2), (1,)])
def test_folds_and_mirroring_are_the_networks_business(mirror_axes):
    network, image = tiny_network(3), random_image((20, 17, 19))
    window = StreamingSlidingWindow(WindowNetwork([network], mirror_axes), 3, (12, 16, 14))
    stock = stock_logits(network, 3, image, (12, 16, 14), mirror_axes=mirror_axes).float()
    check_like_stock(window.logits(image), stock, window)


@pytest.mark.parametrize("shape", [(7, 24, 29), (1, 24, 29), (3, 10, 29)])
def test_slice_by_slice_equals_nnunet(shape):
    network, image = tiny_network(5, dimensions=2), random_image(shape)
    window = StreamingSlidingWindow(network, 5, (16, 14))
    assert window.plan(shape).patch_size == (1, 16, 14)
    assert shape[0] == 1 or window.plan(shape).axis == 0
    stock = stock_logits(network, 5, image, (16, 14)).float()
    check_like_stock(window.logits(image), stock, window)


def test_the_axis_that_needs_the_least_memory():
    window = StreamingSlidingWindow(lambda x: x, 1, (16, 16, 16))
    assert window.plan((64, 100, 80)).axis == 1
    assert window.plan((100, 100, 100)).axis == 0
    assert window.plan((16, 20, 300)).buffer_shape == (16, 20, 16)
    assert StreamingSlidingWindow(lambda x: x, 1, (32, 8, 16)).plan((64, 64, 64)).axis == 1


def test_windows_without_content_are_skipped():
    calls = []

    def network(windows):
        calls.append(len(windows))
        return torch.cat([windows, windows], 1)

    image = torch.zeros(1, 40, 20, 20)
    image[:, 30:33] = 1
    window = StreamingSlidingWindow(network, 2, (8, 20, 20), fill=torch.tensor([3.0, -4.0]))
    seen = []
    logits = window.logits(image, image[0] > 0, progress=seen.append)
    starts = window.plan((40, 20, 20)).starts[0]
    busy = [start for start in starts if start < 33 and start + 8 > 30]
    assert 0 < len(busy) == sum(calls) < len(starts)
    assert sum(seen) == len(starts)
    covered = torch.zeros(40, dtype=torch.bool)
    for start in busy:
        covered[start : start + 8] = True
    assert (logits[0, ~covered] == 3).all()
    assert (logits[1, ~covered] == -4).all()
    torch.testing.assert_close(logits[:, covered], image[:, covered].repeat(2, 1, 1, 1))


def test_nothing_to_see_at_all():
    window = StreamingSlidingWindow(lambda x: pytest.fail("the network was called"), 3, (8, 8, 8))
    logits = window.logits(torch.zeros(1, 9, 9, 9), torch.zeros(9, 9, 9, dtype=torch.bool))
    assert torch.equal(logits.argmax(0), torch.zeros(9, 9, 9, dtype=torch.long))


def test_the_caller_keeps_its_gradient_mode():
    window = StreamingSlidingWindow(tiny_network(2), 2, (8, 8, 8))
    for slab in window.slabs(random_image((16, 8, 8))):
        assert not torch.is_inference_mode_enabled()
        assert torch.is_grad_enabled()
        assert not slab.logits.requires_grad


@pytest.mark.parametrize("wrong", [{"patch_size": (8,)}, {"step_size": 0.0}])
def test_wrong_arguments(wrong):
    with pytest.raises(ValueError, match="Expected a patch size"):
        StreamingSlidingWindow(lambda x: x, 1, **{"patch_size": (8, 8, 8), **wrong})


def test_wrong_type_of_sums():
    with pytest.raises(ValueError, match=r"float16 or torch\.float32"):
        StreamingSlidingWindow(lambda x: x, 1, (8, 8, 8), dtype=torch.bfloat16)


def test_networks_compute_in_the_precision_asked_for():
    types = []
    network, image = tiny_network(2), random_image((12, 16, 14))
    network[0].register_forward_hook(lambda *values: types.append(values[-1].dtype))
    exact = StreamingSlidingWindow(network, 2, (12, 16, 14), precision=torch.float32).logits(image)
    rounded = StreamingSlidingWindow(network, 2, (12, 16, 14), precision=torch.bfloat16).logits(image)
    assert types == [torch.float32, torch.bfloat16]
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, exact)
    torch.testing.assert_close(rounded, exact, atol=0.05, rtol=0.05)
