"""From logits to a label map: `resample_argmax` against nnU-Net's two resampling functions, each followed by argmax.

Least work for 118 classes, 96^3 -> 224^3: read the logits once (417 MB, 0.04 s at 10 GB/s) and write the label map
(11 MB). At the borders between classes, where one class does not win a whole tile, about three multiplications per
output voxel and class that is left. What stock does: 118 x 224^3 interpolations, 5.3 GB written and read again.

Two kinds of logits: ``blobs`` (smooth, as of a trained network) and ``network`` (the output of a randomly initialised
STU-Net S for a noisy image: in a tile of 9^3 voxels about half of all classes can win). Agreement is measured against
float64 interpolation and against float32 interpolation of torch, which rounds the coordinates themselves.
"""

from __future__ import annotations

import argparse
from functools import partial

import torch
from _measure import extra_peak_mb, report, run_once, seconds
from torch import Tensor
from torch.nn.functional import interpolate

from nnunetv2_ext.architectures.stunet import STUNET_SIZES, STUNet
from nnunetv2_ext.inference.deciding.resample import resample_argmax


def blob_logits(classes: int, size: int) -> Tensor:
    """A background and one round structure per class, with some smooth noise."""
    generator = torch.Generator().manual_seed(1)
    axis = torch.linspace(0, 1, size)
    centres = torch.rand(classes, 3, generator=generator)
    radii = 0.06 + 0.1 * torch.rand(classes, generator=generator)
    logits = torch.empty(classes, size, size, size)
    for label in range(classes):
        z, y, x = ((axis - centre) ** 2 for centre in centres[label])
        squared = z[:, None, None] + y[:, None] + x
        logits[label] = (8 - 8 * squared / radii[label] ** 2).clamp(min=-12) if label else -2
    noise = torch.randn(1, classes, *[size // 4] * 3, generator=generator)
    return logits.add_(interpolate(noise, logits.shape[1:], mode="trilinear")[0], alpha=0.5)


def network_logits(classes: int, size: int) -> Tensor:
    """What a randomly initialised STU-Net S makes of a smooth image with noise."""
    torch.manual_seed(0)
    small = STUNET_SIZES["S"]
    network = STUNet(
        1,
        classes,
        features_per_stage=small.features_per_stage,
        n_blocks_per_stage=small.n_blocks_per_stage,
        strides=[(1, 1, 1)] + [(2, 2, 2)] * 5,
        deep_supervision=False,
    ).eval()
    smooth = interpolate(torch.randn(1, 1, *[size // 8] * 3), (size, size, size), mode="trilinear")
    with torch.inference_mode():
        return network(2 * smooth + 0.1 * torch.randn_like(smooth))[0].clone()


def reference(logits: Tensor, shape: tuple[int, int, int], dtype: torch.dtype) -> Tensor:
    """Argmax of the interpolation by torch in a given precision, class by class."""
    largest = torch.full(shape, -torch.inf, dtype=dtype)
    labels = torch.zeros(shape, dtype=torch.uint8)
    for label, channel in enumerate(logits):
        values = interpolate(channel[None, None].to(dtype), shape, mode="trilinear")[0, 0]
        better = values > largest
        largest[better] = values[better]
        labels[better] = label
    return labels


def main() -> None:
    """Runs the benchmark and prints one JSON line per kind of logits and peer."""
    from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape
    from nnunetv2.preprocessing.resampling.resample_torch import resample_torch_fornnunet

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classes", type=int, default=118)
    parser.add_argument("--size", type=int, default=96, help="edge of the logits in voxels")
    parser.add_argument("--new_size", type=int, default=224, help="edge of the label map in voxels")
    parser.add_argument("--logits", nargs="+", choices=("blobs", "network"), default=("blobs", "network"))
    parser.add_argument("--peers", nargs="+", choices=("stock", "stock_torch"), default=("stock", "stock_torch"))
    parser.add_argument("--repeats", type=int, default=5, help="calls of ours; the median counts")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="of ours; peers run on the CPU")
    arguments = parser.parse_args()

    torch.set_num_threads(2)
    shape = (arguments.new_size,) * 3
    spacings = ((1.5, 1.5, 1.5), (1.5 * arguments.size / arguments.new_size,) * 3)

    def stock(logits: Tensor) -> Tensor:
        # As nnU-Net's label manager: NumPy's argmax, "faster than torch".
        resampled = resample_data_or_seg_to_shape(logits, shape, *spacings, order=1, order_z=0, force_separate_z=None)
        return torch.from_numpy(resampled.argmax(0))

    def stock_torch(logits: Tensor) -> Tensor:
        resampled = resample_torch_fornnunet(logits, shape, *spacings, num_threads=2, force_separate_z=None)
        return torch.from_numpy(resampled.numpy().argmax(0))

    for kind in arguments.logits:
        logits = {"blobs": blob_logits, "network": network_logits}[kind](arguments.classes, arguments.size)

        there = logits.to(arguments.device)

        def ours(there: Tensor = there) -> Tensor:
            return resample_argmax(there, shape)

        # Memory apart from time: ours is many short calls, which the thread that watches the memory would hold up.
        peak = extra_peak_mb(ours, arguments.device)
        ours_s = seconds({"ours": ours}, arguments.repeats, arguments.device)["ours"]
        ours_cpu_s = seconds({"ours": ours}, arguments.repeats, arguments.device, clock="cpu")["ours"]
        labels = ours().cpu()
        exact, float32 = (reference(logits, shape, dtype) for dtype in (torch.float64, torch.float32))
        for name in arguments.peers:
            peer = run_once(partial({"stock": stock, "stock_torch": stock_torch}[name], logits))
            report(
                f"export_{kind}_{name}",
                device=arguments.device,
                ours_s=ours_s,
                peer_s=peer.seconds,
                ratio=peer.seconds / ours_s,
                ours_cpu_s=ours_cpu_s,
                peer_cpu_s=peer.cpu_seconds,
                ours_peak_mb=peak,
                peer_peak_mb=peer.extra_peak_mb,
                agreement=float((labels == exact).double().mean()),
                voxels=exact.numel(),
                unlike_float64=int((labels != exact).sum()),
                unlike_float32=int((labels != float32).sum()),
                unlike_peer=int((labels != peer.result).sum()),
                peer_unlike_float64=int((peer.result != exact).sum()),
            )


if __name__ == "__main__":
    main()
