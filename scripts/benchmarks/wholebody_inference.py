"""Memory of the whole-body bundle's prediction against MONAI's `sliding_window_inference` with its full buffer.

MONAI's SegResNet with the bundle's blocks and 105 classes, windows of 96^3, overlap 0.25, Gaussian weights. A scan of
287 x 287 x 397 voxels at 1.5 mm takes a buffer of 105 x 287 x 287 x 397 x 4 bytes = 13.7 GB; the bundle's softmax takes
as much again (published: 28.7 GB on a GPU, 26 GB on a CPU). Both sides run the same network, with random weights; fewer
``--filters`` save time, but also memory on our side, which adds up what the last layer sees. Volumes are given as
x, y, z, as in MONAI. With ``--only_ours`` the peer's peak is its buffer alone, which it cannot do without.

What must be held: of the 397 planes the 96 of a window, in the 32 channels before the last layer and one for its bias,
33 x 96 x 287 x 287 x 4 bytes = 1.04 GB, and one window's features, 0.12 GB.

Each side runs in a process of its own, because memory that was freed stays with a process and hides the next peak.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from _measure import report, run_once
from torch import Tensor

from nnunetv2_ext.architectures.monai_networks import SegResNet
from nnunetv2_ext.inference.bundles.preparing import BundlePreprocessing
from nnunetv2_ext.inference.bundles.profile import BundleProfile
from nnunetv2_ext.inference.bundles.segmenter import BundleSegmenter

CLASSES = 105
WINDOW = (96, 96, 96)
OVERLAP = 0.25


def bundle_network(filters: int) -> torch.nn.Module:
    """Random weights; the published network has 32 filters."""
    torch.manual_seed(0)
    return SegResNet(1, CLASSES, init_filters=filters, blocks_down=(1, 2, 2, 4), blocks_up=(1, 1, 1)).eval()


def scan_of(size: tuple[int, int, int]) -> Tensor:
    """Blocks of 8^3 voxels of one intensity each, with some noise; (1, x, y, z), intensities from -1 to 1."""
    generator = torch.Generator().manual_seed(1)
    image = torch.rand([(extent + 7) // 8 for extent in size], generator=generator) * 2 - 1
    for axis in range(3):
        image = image.repeat_interleave(8, axis).narrow(axis, 0, size[axis])
    return image.add(torch.randn(image.shape, generator=generator), alpha=0.05)[None].contiguous()


def ours(network: torch.nn.Module, image: Tensor) -> Tensor:
    """The decision of `nnUNetv2_ext_predict` for an imported whole-body bundle."""
    profile = BundleProfile(
        orientation="RAS",
        spacing=(1.5, 1.5, 1.5),
        intensity=(),
        window_size=WINDOW,
        overlap=OVERLAP,
        blend="gaussian",
        padding="replicate",
        inversion="nearest_labels",
    )
    segmenter = BundleSegmenter(profile, BundlePreprocessing(profile), [network], CLASSES, torch.device("cpu"))
    return segmenter.winners(image)


def monai(network: torch.nn.Module, image: Tensor) -> Tensor:
    """MONAI's inferer, then the largest logit."""
    return _logits(network, image).argmax(1)[0]


def bundle(network: torch.nn.Module, image: Tensor) -> Tensor:
    """As the bundle's configs/inference.json: MONAI's inferer, softmax, then the largest probability."""
    return _logits(network, image).softmax(1).argmax(1)[0]


def _logits(network: torch.nn.Module, image: Tensor) -> Tensor:
    from monai.inferers import sliding_window_inference

    with torch.inference_mode():
        logits = sliding_window_inference(
            image[None], WINDOW, 1, network, overlap=OVERLAP, mode="gaussian", padding_mode="replicate"
        )
    assert isinstance(logits, Tensor)
    return logits


SIDES: dict[str, Callable[[torch.nn.Module, Tensor], Tensor]] = {"ours": ours, "monai": monai, "bundle": bundle}


def main() -> None:
    """Runs the benchmark and prints one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, nargs=3, default=(160, 160, 224), help="x, y, z of the scan in voxels")
    parser.add_argument("--filters", type=int, default=32, help="filters of the network's first stage")
    parser.add_argument("--peer", choices=("monai", "bundle"), default="monai", help="bundle: with its softmax")
    parser.add_argument("--only_ours", action="store_true", help="where the peer's buffer is too large for the machine")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    size = tuple(arguments.size)
    if arguments.measure:
        which, file = arguments.measure
        network = bundle_network(arguments.filters)
        SIDES[which](network, scan_of(WINDOW))  # libraries allocate their own buffers on the first call
        image = scan_of(size)
        run = run_once(lambda: SIDES[which](network, image))
        np.save(file, run.result.numpy().astype(np.uint8))
        print(json.dumps([run.seconds, run.extra_peak_mb]))
        return
    sides = ["ours"] if arguments.only_ours else ["ours", arguments.peer]
    with tempfile.TemporaryDirectory() as folder:
        files = {which: Path(folder) / f"{which}.npy" for which in sides}
        measured = {which: _in_own_process(which, file) for which, file in files.items()}
        labels = [np.load(file) for file in files.values()]
    ours_s, ours_mb = measured["ours"]
    full_buffer_mb = CLASSES * labels[0].size * 4 / 1e6
    peer_s, peer_mb = measured.get(arguments.peer, (None, full_buffer_mb))
    different = None if arguments.only_ours else int((labels[0] != labels[1]).sum())
    report(
        "wholebody_inference",
        ours_s=ours_s,
        peer_s=peer_s,
        ratio=None if peer_s is None else peer_s / ours_s,
        ours_peak_mb=ours_mb,
        peer_peak_mb=peer_mb,
        memory_ratio=ours_mb / peer_mb,
        full_buffer_mb=full_buffer_mb,
        agreement=None if different is None else 1 - different / labels[0].size,
        different_voxels=different,
        classes_found=len(np.unique(labels[0])),
        voxels=labels[0].size,
        size=list(size),
        filters=arguments.filters,
        peer=arguments.peer,
        peer_was_run=not arguments.only_ours,
    )


def _in_own_process(which: str, file: Path) -> tuple[float, float]:
    command = [sys.executable, *sys.argv, "--measure", which, str(file)]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, encoding="utf-8").stdout
    taken, peak = json.loads(printed.splitlines()[-1])
    return taken, peak


if __name__ == "__main__":
    main()
