"""STU-Net's forward pass and training step against the published order of operations; same weights, same process.

The peer is the published network: at each decoder stage it interpolates first and then convolves, and it evaluates all
five heads even where only the full resolution is asked for. Ours convolves first (an eighth of the voxels) and
evaluates auxiliary heads for deep supervision only.

Least work for STU-Net S at 96^3 with 105 classes: 55 G multiply-adds in the 3x3x3 convolutions, which neither order
avoids (about 1.5 s forward on two cores at 80 GFLOP/s, three times that for a training step). The convolutions before
the skips take 0.9 G in the published order and 0.1 G here, the auxiliary heads 0.3 G more; what is saved beyond
that is memory traffic: interpolating 16 instead of 32 channels at full resolution moves 57 MB less.

Each line compares a forward pass without gradients (`predict`) or a training step with deep supervision (`train`):
forward, a loss over all levels, backward.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from _measure import extra_peak_mb, report, seconds
from torch import Tensor
from torch.nn import functional

from nnunetv2_ext.architectures.stunet import PUBLISHED_STRIDES, STUNET_SIZES, STUNet


def published_forward(network: STUNet, image: Tensor) -> list[Tensor]:
    """Upsample, then convolve; all heads. Full resolution first."""
    *skips, x = network.encoder(image)
    decoder: Any = network.decoder
    outputs = []
    for upsample, stage, head, skip in zip(
        decoder.upsample_layers, decoder.stages, decoder.seg_layers, reversed(skips), strict=True
    ):
        x = upsample.conv(functional.interpolate(x, scale_factor=upsample.stride, mode="nearest"))
        x = stage(torch.cat((x, skip), 1))
        outputs.append(head(x))
    return outputs[::-1]


def main() -> None:
    """Prints one JSON line for the forward pass and one for the training step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="S", choices=list(STUNET_SIZES), help="published size")
    parser.add_argument("--patch", type=int, default=96, help="edge of the patch in voxels, a multiple of 32")
    parser.add_argument("--classes", type=int, default=105, help="output channels")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    arguments = parser.parse_args()

    torch.manual_seed(0)
    network = STUNet(
        1,
        arguments.classes,
        **STUNET_SIZES[arguments.size].arguments,
        strides=PUBLISHED_STRIDES,
        deep_supervision=True,
    ).to(arguments.device)
    network.apply(network.initialize)
    image = torch.randn(arguments.batch, 1, *[arguments.patch] * 3, device=arguments.device)
    parameters = list(network.parameters())

    def step(outputs: list[Tensor]) -> tuple[Tensor, ...]:
        loss = sum(level.float().square().mean() / 2**index for index, level in enumerate(outputs))
        return torch.autograd.grad(loss, parameters)

    @torch.no_grad()
    def ours_predict() -> Tensor:
        network.decoder.deep_supervision = False
        return network(image)

    @torch.no_grad()
    def peer_predict() -> Tensor:
        network.decoder.deep_supervision = True
        return published_forward(network, image)[0]

    def ours_train() -> tuple[Tensor, ...]:
        network.decoder.deep_supervision = True
        return step(network(image))

    def peer_train() -> tuple[Tensor, ...]:
        network.decoder.deep_supervision = True
        return step(published_forward(network, image))

    for name, ours, peer in (("predict", ours_predict, peer_predict), ("train", ours_train, peer_train)):
        times = seconds({"ours": ours, "peer": peer}, arguments.repeats, arguments.device)
        report(
            f"stunet_forward_{name}",
            ours_s=times["ours"],
            peer_s=times["peer"],
            ratio=times["ours"] / times["peer"],
            ours_peak_mb=extra_peak_mb(ours, arguments.device),
            peer_peak_mb=extra_peak_mb(peer, arguments.device),
            agreement=_largest_difference(ours(), peer()),
            size=arguments.size,
            patch=arguments.patch,
            classes=arguments.classes,
            batch=arguments.batch,
            device=arguments.device,
        )


def _largest_difference(ours: Tensor | tuple[Tensor, ...], peer: Tensor | tuple[Tensor, ...]) -> float:
    """Largest difference relative to the largest magnitude of all tensors.

    Of all, because the gradients of biases before a norm are zero but for rounding.
    """
    of_ours, of_peer = ((each,) if isinstance(each, Tensor) else each for each in (ours, peer))
    pairs = list(zip(of_ours, of_peer, strict=True))
    magnitude = max(float(b.abs().max()) for _, b in pairs)
    return max(float((a - b).abs().max()) for a, b in pairs) / magnitude


if __name__ == "__main__":
    main()
