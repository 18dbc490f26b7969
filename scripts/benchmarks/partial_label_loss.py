"""`PartialLabelLoss` against stock nnU-Net's region loss: forward and backward of 105 classes on a 64^3 patch, batch 2.

The peer is what `nnUNetTrainer` builds for regions: `DC_and_BCE_loss` with `MemoryEfficientSoftDiceLoss` on the
boolean one-hot target that its loader delivers. Its time is the loss alone (building the target is the workers' task).
Memory is what is needed beyond the logits and the label map: for the peer its one-hot target and everything allocated
in forward and backward, for ours everything allocated in forward and backward; both include the gradient of the logits.

Least work for n annotated channels of V voxels in float32: read the logits twice and write their gradient once,
12 n V bytes (661 MB for 210 channels, about 0.07 s at 10 GB/s), and two sigmoids and one logarithm per value; a zero
gradient for channels that are not annotated is allocated but not written.

Agreement: largest difference to the peer's own value and gradient when every class is annotated. The peer averages
over classes and images where ours sums (paper, Eq. 2), so its terms are rescaled: with equal regions
``ours = C * (B * BCE + Dice)``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import _measure
import torch
from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from torch import Tensor

from nnunetv2_ext.training.loss.partial_label_loss import PartialLabelLoss

CLASSES, SIZE, BATCH, FEW = 105, 64, 2, 5
SMOOTH = 1e-5


def main() -> None:
    """Prints one line with all classes annotated and one with few."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--size", type=int, default=SIZE, help="edge of the patch in voxels")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", default="wall", choices=["wall", "cpu"], help="cpu: for one thread, when busy")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    device, shape = arguments.device, (arguments.size,) * 3

    regions = torch.eye(CLASSES, CLASSES + 1, dtype=torch.bool).roll(1, 1)
    logits = torch.randn(BATCH, CLASSES, *shape, device=device, requires_grad=True)
    label_map = torch.randint(0, CLASSES + 1, (BATCH, 1, *shape), dtype=torch.int16).to(device)
    everything = torch.ones(BATCH, CLASSES, dtype=torch.bool)
    few = everything.clone()
    few[:, FEW:] = False

    ours = PartialLabelLoss(regions, smooth=SMOOTH).to(device)
    dice = {"batch_dice": True, "do_bg": True, "smooth": SMOOTH, "ddp": False}
    stock = DC_and_BCE_loss({}, dice, dice_class=MemoryEfficientSoftDiceLoss)
    one_hot = _one_hot(label_map)

    def run_ours(annotated: Tensor) -> None:
        logits.grad = None
        ours(logits, label_map, annotated).backward()

    def run_stock(target: Tensor) -> None:
        logits.grad = None
        stock(logits, target).backward()

    agreement = _disagreement(ours, logits, label_map, everything, one_hot, dice)
    times = _measure.seconds(
        {
            "ours": lambda: run_ours(everything),
            "few": lambda: run_ours(few),
            "peer": lambda: run_stock(one_hot),
        },
        arguments.repeats,
        device,
        arguments.clock,
    )
    logits.grad = None
    del one_hot
    ours_mb = _measure.extra_peak_mb(lambda: _then_free(logits, lambda: run_ours(everything)), device)
    few_mb = _measure.extra_peak_mb(lambda: _then_free(logits, lambda: run_ours(few)), device)
    peer_mb = _measure.extra_peak_mb(lambda: _then_free(logits, lambda: run_stock(_one_hot(label_map))), device)
    for annotated, time, memory in ((CLASSES, times["ours"], ours_mb), (FEW, times["few"], few_mb)):
        _measure.report(
            "partial_label_loss",
            annotated=annotated,
            classes=CLASSES,
            size=arguments.size,
            device=device,
            threads=arguments.threads,
            clock=arguments.clock,
            ours_s=time,
            peer_s=times["peer"],
            ratio=time / times["peer"],
            ours_peak_mb=memory,
            peer_peak_mb=peer_mb,
            memory_ratio=memory / peer_mb,
            agreement=agreement,
        )


def _one_hot(label_map: Tensor) -> Tensor:
    """Boolean (batch, classes, z, y, x) as `ConvertSegmentationToRegionsTransform` delivers it."""
    target = torch.empty(len(label_map), CLASSES, *label_map.shape[2:], dtype=torch.bool, device=label_map.device)
    for index in range(CLASSES):
        torch.eq(label_map[:, 0], index + 1, out=target[:, index])
    return target


def _then_free(logits: Tensor, run: Callable[[], None]) -> None:
    run()
    logits.grad = None


def _disagreement(
    ours: PartialLabelLoss,
    logits: Tensor,
    label_map: Tensor,
    annotated: Tensor,
    one_hot: Tensor,
    dice: dict[str, Any],
) -> float:
    value = ours(logits, label_map, annotated)
    (gradient,) = torch.autograd.grad(value, logits)
    stock = DC_and_BCE_loss(
        {}, dice, weight_ce=CLASSES * BATCH, weight_dice=CLASSES, dice_class=MemoryEfficientSoftDiceLoss
    )
    expected = stock(logits, one_hot)
    (of_stock,) = torch.autograd.grad(expected, logits)
    difference = (gradient - of_stock).abs().max() / of_stock.abs().max()
    return max((abs(value - expected) / abs(expected)).item(), difference.item())


if __name__ == "__main__":
    main()
