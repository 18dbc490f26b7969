"""Label maps from slabs against those from all logits at once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunetv2_ext.inference import resample_argmax
from nnunetv2_ext.inference.deciding.axes import resampled_axes
from nnunetv2_ext.inference.deciding.resample import LargestWins, LastAboveZero, label_map, probabilities
from nnunetv2_ext.inference.deciding.rules import LargestLogit, Winners
from nnunetv2_ext.inference.deciding.streaming import Pieces
from nnunetv2_ext.inference.windows.ring import LogitSlab
from nnunetv2_ext.inference.windows.sliding_window import StreamingSlidingWindow


def cut(logits, axis, stops):
    """Slabs in a buffer that is overwritten, as the sliding window does."""
    start = 0
    for stop in stops:
        buffer = logits.narrow(axis + 1, start, stop - start).clone()
        yield LogitSlab(axis, start, stop, buffer)
        buffer.fill_(float("nan"))
        start = stop


sizes = st.integers(1, 14)
shapes = st.tuples(sizes, sizes, sizes)


@settings(deadline=None, max_examples=60)
@given(shapes, shapes, st.sampled_from([0, 1, 2]), st.sampled_from([None, 0, 1, 2]), st.data())
def test_slabs_give_what_all_logits_give(shape, new_shape, axis, nearest_axis, data):
    logits = torch.randn((6, *shape), generator=torch.Generator().manual_seed(sum(shape)))
    inner = data.draw(st.sets(st.integers(1, shape[axis]))) | {shape[axis]}
    stops = sorted(inner)
    order = (4, 1, 9, 2, 300, 5)
    axes = resampled_axes(shape, new_shape, nearest_axis)
    for comparison in (LargestWins(6), LastAboveZero(order)):
        labels = joined(cut(logits, axis, stops), shape, new_shape, nearest_axis, comparison=comparison)
        assert torch.equal(labels, label_map(logits, axes, comparison))


def joined(slabs, shape, new_shape, nearest_axis, *, comparison):
    pieces, result = Pieces(shape, new_shape, nearest_axis), torch.full(new_shape, -1, dtype=torch.int32)
    for slab in slabs:
        for piece in pieces.of(slab):
            assert (result[piece.outputs] == -1).all()
            result[piece.outputs] = label_map(piece.logits, piece.axes, comparison).int()
    pieces.refuse_missing()
    return result.to(comparison.dtype)


@pytest.mark.parametrize("has_regions", [False, True])
def test_probabilities_come_in_pieces(has_regions):
    logits = torch.randn(5, 9, 8, 7)
    result = torch.full((5, 20, 11, 7), float("nan"))
    pieces, options = Pieces((9, 8, 7), (20, 11, 7)), {"has_regions": has_regions}
    for slab in cut(logits, 0, [1, 4, 9]):
        for piece in pieces.of(slab):
            z, y, x = piece.outputs
            result[:, z, y, x] = probabilities(piece.logits, piece.axes, **options)
    expected = probabilities(logits, resampled_axes((9, 8, 7), (20, 11, 7)), **options)
    torch.testing.assert_close(result, expected)


@pytest.mark.parametrize("new_shape", [(50, 30, 31), (20, 22, 40), (37, 24, 29)])
def test_window_to_label_map(new_shape, device):
    torch.manual_seed(0)
    network = torch.nn.Conv3d(1, 7, 5, padding=2).eval().to(device)
    image = torch.nn.functional.interpolate(torch.randn(1, 1, 9, 6, 7), (37, 24, 29), mode="trilinear")[0]
    window = StreamingSlidingWindow(network, 7, (12, 16, 14), device=device)
    decisions = LargestLogit(7, (37, 24, 29), new_shape).of(window.slabs(image))
    assert isinstance(decisions, Winners)
    labels = torch.from_numpy(decisions.winner)
    assert torch.equal(labels, resample_argmax(window.logits(image), new_shape).cpu())
    assert len(labels.unique()) > 3


@pytest.mark.parametrize("planes", [[(0, 4), (5, 9)], [(0, 4)], [(2, 9)], []])
def test_missing_planes_are_noticed(planes):
    logits = torch.zeros(2, 9, 4, 4)
    slabs = (LogitSlab(0, start, stop, logits[:, start:stop]) for start, stop in planes)
    with pytest.raises(ValueError, match="slab"):
        LargestLogit(2, (9, 4, 4), (12, 6, 6)).of(slabs)


def test_the_documented_calls():
    pages = Path(__file__).resolve().parents[3] / "docs"
    blocks = re.findall(r"```python\n(.*?)```", (pages / "export_method.md").read_text(encoding="utf-8"), re.S)
    torch.manual_seed(0)
    image = torch.randn(1, 20, 30, 25)
    names: dict[str, Any] = {
        "network": torch.nn.Conv3d(1, 105, 3, padding=1),
        "image": image,
        "original_shape": (30, 40, 35),
        "image_shape": (30, 40, 35),
        "network_spacing": (1.5, 1.5, 1.5),
        "image_spacing": (1.0, 1.125, 1.07),
        "logits": torch.randn(105, 20, 30, 25),
    }
    assert len(blocks) == 2
    for block in blocks:
        small = block.replace("(128, 128, 128)", "(16, 16, 16)").replace('"cuda"', '"cpu"')
        exec(compile(small, "export_method.md", "exec"), names)
        assert names["labels"].shape == (30, 40, 35)
