"""Peak memory of predicting ever longer scans: streaming against nnU-Net's full accumulation.

A tiny network with 105 outputs predicts scans of 128 to 1024 planes, patch 32^3, step 0.5, and the label map is
resampled from 1 mm to 0.8 mm. What must be held beside image and label map is 105 x 32 x height x width float32 sums
(55 MB for 64 x 64), whatever the number of planes; nnU-Net holds 105 x planes x height x width float16 sums, and
float16 or float64 copies of them while it resamples.

Every measurement is a process of its own, because memory that was freed stays with a process and hides the next peak.
For the same reason malloc is told to ask the system for every block of 1 MB and more, as it does for the blocks above
32 MB of real scans; left alone, it keeps the small blocks of this miniature, and the peak varies by half between runs.
Labels are compared with those of nnU-Net's accumulation and of float64 sums, in one process, for a network that
recognises the scan's structures and for one with random weights; sums in float16 have to give nnU-Net's logits. Voxels
are "tied in float16" where the two largest logits lie closer than the rounding of nnU-Net's half-precision sums.

    python scripts/benchmarks/sliding_window.py --folds 5

averages folds as ``--mode accurate`` does, in sums of float16, and prints one line of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from itertools import product
from types import SimpleNamespace
from typing import Any

import torch
from _measure import report, run_once
from torch import Tensor
from torch.nn.functional import normalize

from nnunetv2_ext.inference.deciding.resample import resample_argmax
from nnunetv2_ext.inference.deciding.rules import LargestLogit, Winners
from nnunetv2_ext.inference.windows.sliding_window import StreamingSlidingWindow

CLASSES = 105
CHANNELS = 16
PATCH_SIZE = (32, 32, 32)


def codes() -> Tensor:
    """A direction in the space of the image's channels for every class."""
    return normalize(torch.randn(CLASSES, CHANNELS, generator=torch.Generator().manual_seed(0)), dim=1)


def scan_of(planes: int, size: int) -> Tensor:
    """An image (channels, z, y, x) of blocks that each show the direction of a class, with some noise."""
    generator = torch.Generator().manual_seed(1)
    blocks = torch.randint(CLASSES, (planes // 16, size // 16, size // 16), generator=generator)
    for axis in range(3):
        blocks = blocks.repeat_interleave(16, axis)
    image = codes()[blocks].permute(3, 0, 1, 2).contiguous()
    return image.add_(torch.randn(image.shape, generator=generator), alpha=0.05)


def tiny_network(kind: str = "trained", fold: int = 0) -> torch.nn.Module:
    """Either recognises the directions, as a trained network would, or has random weights."""
    torch.manual_seed(fold)
    if kind == "random":
        layers = [torch.nn.Conv3d(CHANNELS, 8, 3, padding=1), torch.nn.LeakyReLU(), torch.nn.Conv3d(8, CLASSES, 1)]
        return torch.nn.Sequential(*layers).eval()
    recognise = torch.nn.Conv3d(CHANNELS, CLASSES, 1, bias=False)
    recognise.weight.data = 10 * codes()[:, :, None, None, None] + fold * 0.2 * recognise.weight.data
    return torch.nn.Sequential(torch.nn.AvgPool3d(3, 1, 1), recognise).eval()


def finer(shape: torch.Size) -> tuple[int, int, int]:
    """The shape after resampling from 1 mm to 0.8 mm."""
    z, y, x = (round(size / 0.8) for size in shape[-3:])
    return z, y, x


def ours(image: Tensor, folds: int) -> Tensor:
    """Label map by streaming; of several folds with sums in float16, as nnU-Net's."""
    networks = [tiny_network(fold=fold) for fold in range(folds)]
    dtype = torch.float16 if folds > 1 else torch.float32
    window = StreamingSlidingWindow(networks, CLASSES, PATCH_SIZE, dtype=dtype)
    rule = LargestLogit(CLASSES, image.shape[1:], finer(image.shape))
    decisions = rule.of(window.slabs(image))
    assert isinstance(decisions, Winners)
    return torch.from_numpy(decisions.winner)


def stock_logits(image: Tensor, kind: str = "trained", folds: int = 1) -> Tensor:
    """Logits of nnU-Net's own sliding window, averaged over folds."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(
        use_mirroring=False, perform_everything_on_device=False, device=torch.device("cpu"), allow_tqdm=False
    )
    predictor.network = tiny_network(kind)
    predictor.configuration_manager = SimpleNamespace(patch_size=list(PATCH_SIZE))
    predictor.label_manager = SimpleNamespace(num_segmentation_heads=CLASSES)
    predictor.allowed_mirroring_axes = None
    predictor.list_of_parameters = [tiny_network(kind, fold).state_dict() for fold in range(folds)]
    return predictor.predict_logits_from_preprocessed_data(image)


def stock(image: Tensor, folds: int) -> Tensor:
    """Label map as nnU-Net makes it."""
    from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape

    resampled = resample_data_or_seg_to_shape(
        stock_logits(image, folds=folds),
        finer(image.shape),
        (1.0, 1.0, 1.0),
        (0.8, 0.8, 0.8),
        order=1,
        force_separate_z=None,
    )
    return torch.from_numpy(resampled.argmax(0))


def exact_logits(image: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """Sums over windows in float64, divided by the sums of the weights, and the latter."""
    window = StreamingSlidingWindow(tiny_network(kind), CLASSES, PATCH_SIZE)
    plan, weights = window.plan(image.shape[1:]), window.window_weights().double()
    sums = torch.zeros((CLASSES, *image.shape[1:]), dtype=torch.float64)
    total = torch.zeros(image.shape[1:], dtype=torch.float64)
    depth, height, width = PATCH_SIZE
    with torch.inference_mode():
        for z, y, x in product(*plan.starts):
            where = slice(z, z + depth), slice(y, y + height), slice(x, x + width)
            everywhere = (slice(None), *where)
            sums[everywhere] += window.networks[0](image[everywhere][None])[0].double() * weights
            total[where] += weights
    return sums / total, total


def compare(kind: str, planes: int, size: int) -> dict[str, Any]:
    """How many labels differ from those of nnU-Net's and of exact sums, at the network's spacing."""
    image = scan_of(planes, size)
    logits = StreamingSlidingWindow(tiny_network(kind), CLASSES, PATCH_SIZE).logits(image)
    labels = resample_argmax(logits, image.shape[1:])
    exact, weight = exact_logits(image, kind)
    stock_sums = stock_logits(image, kind)
    of_stock = stock_sums.argmax(0)
    half = StreamingSlidingWindow(tiny_network(kind), CLASSES, PATCH_SIZE, dtype=torch.float16).logits(image)
    largest, second = exact.topk(2, dim=0).values
    # Half precision keeps 11 binary digits, and none below 2^-24; up to eight windows are added up, twice.
    rounding = 8 * (largest.abs() * 2**-11 + 2**-24 / weight)
    tied = largest - second < 2 * rounding
    return {
        "agreement": float((labels == of_stock).double().mean()),
        "agreement_unless_tied_in_float16": float((labels == of_stock)[~tied].double().mean()),
        "tied_in_float16": float(tied.double().mean()),
        "agreement_of_float16_sums": float((resample_argmax(half, image.shape[1:]) == of_stock).double().mean()),
        "float16_logits_unlike_stock": int((half != stock_sums).sum()),
        "unlike_float64": int((labels != exact.argmax(0)).sum()),
        "stock_unlike_float64": int((of_stock != exact.argmax(0)).sum()),
        "voxels": labels.numel(),
    }


def main() -> None:
    """Runs the benchmark and prints one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--planes", type=int, nargs="+", default=(128, 256, 512, 1024))
    parser.add_argument("--peer_planes", type=int, nargs="+", default=(128, 256))
    parser.add_argument("--size", type=int, default=64, help="height and width of the scan in voxels")
    parser.add_argument("--folds", type=int, default=1, help="how many networks are averaged")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if 256 not in arguments.planes or not set(arguments.peer_planes) <= set(arguments.planes):
        parser.error("expected 256 and all --peer_planes among --planes")
    torch.set_num_threads(2)
    if arguments.measure:
        which, planes = arguments.measure
        function = {"ours": ours, "stock": stock}[which]
        function(scan_of(48, 32), arguments.folds)  # libraries allocate their own buffers on the first call
        image = scan_of(int(planes), arguments.size)
        run = run_once(lambda: function(image, arguments.folds))
        print(json.dumps([run.seconds, run.extra_peak_mb]))
        return
    of_ours = {planes: _in_own_process("ours", planes, arguments) for planes in arguments.planes}
    of_peer = {planes: _in_own_process("stock", planes, arguments) for planes in arguments.peer_planes}
    longest_of_both = max(of_peer)
    agreements: dict[str, Any]
    if arguments.folds > 1:
        image = scan_of(min(of_peer), arguments.size)
        agreements = {
            "agreement": float((ours(image, arguments.folds) == stock(image, arguments.folds)).double().mean())
        }
    else:
        agreements = compare("trained", 128, arguments.size)
        agreements["random_network"] = compare("random", 128, arguments.size)
    report(
        "sliding_window" if arguments.folds == 1 else "sliding_window_of_folds",
        folds=arguments.folds,
        ours_s=of_ours[longest_of_both][0],
        peer_s=of_peer[longest_of_both][0],
        ratio=of_peer[longest_of_both][0] / of_ours[longest_of_both][0],
        ours_peak_mb=of_ours[longest_of_both][1],
        peer_peak_mb=of_peer[longest_of_both][1],
        growth_from_256_to_longest=of_ours[max(of_ours)][1] / of_ours[256][1],
        ours_peak_mb_by_planes={planes: round(peak) for planes, (_, peak) in of_ours.items()},
        peer_peak_mb_by_planes={planes: round(peak) for planes, (_, peak) in of_peer.items()},
        memory_ratio=of_ours[longest_of_both][1] / of_peer[longest_of_both][1],
        **agreements,
    )


def _in_own_process(which: str, planes: int, arguments: argparse.Namespace) -> tuple[float, float]:
    options = ["--size", str(arguments.size), "--folds", str(arguments.folds)]
    command = [sys.executable, sys.argv[0], *options, "--measure", which, str(planes)]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "1000000"}
    printed = subprocess.run(command, check=True, capture_output=True, encoding="utf-8", env=environment).stdout
    taken, peak = json.loads(printed.splitlines()[-1])
    return taken, peak


if __name__ == "__main__":
    main()
