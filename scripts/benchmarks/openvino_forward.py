"""A window of STU-Net in OpenVINO against torch: same weights, same process, both in float32.

Least work for STU-Net S at 96^3 with 105 classes: 55 G multiply-adds in the convolutions, for either; OpenVINO fuses
normalisation and activation into them and keeps channels in blocks that fit the processor's vectors.

    python scripts/benchmarks/openvino_forward.py [--size S] [--patch 96]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from _measure import report, seconds

from nnunetv2_ext.architectures.stunet import PUBLISHED_STRIDES, STUNET_SIZES, STUNet
from nnunetv2_ext.inference.model.openvino import OpenVinoNetwork


def main() -> None:
    """Prints one line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=sorted(STUNET_SIZES), default="S")
    parser.add_argument("--patch", type=int, default=96)
    parser.add_argument("--classes", type=int, default=105)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    network = STUNet(
        1,
        arguments.classes,
        **STUNET_SIZES[arguments.size].arguments,
        strides=PUBLISHED_STRIDES,
        deep_supervision=False,
    ).eval()
    window = torch.randn(1, 1, *[arguments.patch] * 3)
    start = time.perf_counter()
    compiled = OpenVinoNetwork(network, window.shape[1:])
    conversion = time.perf_counter() - start
    with torch.inference_mode():
        difference = float((compiled(window) - network(window)).abs().max())
        agreement = float((compiled(window).argmax(1) == network(window).argmax(1)).float().mean())
        functions = {"ours": lambda: compiled(window), "peer": lambda: network(window)}
        times = seconds(functions, arguments.repeats)
        processor = {name: _processor_seconds(function, arguments.repeats) for name, function in functions.items()}
    report(
        "openvino_forward",
        size=arguments.size,
        threads=torch.get_num_threads(),
        ours_s=times["ours"],
        peer_s=times["peer"],
        ratio=times["ours"] / times["peer"],
        speedup=times["peer"] / times["ours"],
        # What other programs on a busy machine disturb less.
        ours_cpu_s=processor["ours"],
        peer_cpu_s=processor["peer"],
        cpu_speedup=processor["peer"] / processor["ours"],
        largest_difference=difference,
        conversion_s=conversion,
        agreement=agreement,
    )


def _processor_seconds(function: Callable[[], Any], repeats: int) -> float:
    """Median seconds that all threads of the process compute."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return statistics.median(times)


if __name__ == "__main__":
    main()
