"""A training step of `MultiTalentTrainer_stunet_small` at 48^3 with 5 annotated classes of 10, 50, 200 and 1000.

The step is the trainer's own `train_step`: forward, loss at every level, backward, clipping, SGD. It must not cost more
when the collection has more classes: ``ratio`` is the time against that with 10 classes. As a second peer the same
step as stock nnU-Net takes it, all heads and its region loss on a one-hot target (up to 50 classes; beyond that its
arrays of all classes do not fit in the memory of a small machine).

Least work: the backbone's convolutions (which do not depend on the classes) plus, per annotated class and voxel of each
level, one product of 16 to 256 features forward and two backward: below 1 % of the backbone at 5 classes. What still
grows with the classes of the collection are the 496 head weights per class in clipping and SGD: 0.5 million at 1000
classes, against 14.6 million weights of the backbone.

Agreement: largest difference of the loss to that of the same step with the heads of all classes evaluated, relative.
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

import _measure
import _tiny_training
import torch
from torch import Tensor

BASE, COUNTS, ANNOTATED, SIZE, BATCH = 10, (10, 50, 200, 1000), 5, 48, 2
STOCK_UP_TO = 50


def main() -> None:
    """Prints one line per number of classes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--size", type=int, default=SIZE, help="edge of the patch in voxels")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", default="wall", choices=["wall", "cpu"], help="cpu: for one thread, when busy")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with _tiny_training.nnunet_folders():
        _run(arguments.device, arguments.size, arguments.repeats, arguments.threads, arguments.clock)


def _run(device: str, size: int, repeats: int, threads: int, clock: str) -> None:
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    from nnunetv2_ext.training.trainers import multitalent, stunet

    # Made from the table of variants, not written out.
    ours_class, peer_class = vars(multitalent)["MultiTalentTrainer_stunet_small"], vars(stunet)["STUNetTrainer_small"]

    content = _tiny_training.plans(size, BATCH)
    arguments = content["configurations"][_tiny_training.CONFIGURATION]["architecture"]["arch_kwargs"]
    arguments["strides"] = [[1] * 3, *[[2] * 3] * 4, [1] * 3]  # 48 can be halved four times
    steps, differences = {}, {}
    batch = None
    for classes in COUNTS:
        dataset_json = _tiny_training.collection(classes, 2, ANNOTATED)
        if batch is None:
            _tiny_training.write_cases(dataset_json, content, size)
        trainer = _tiny_training.make_trainer(ours_class, dataset_json, content, device)
        batch = batch or _batch(trainer, size)
        annotated = torch.zeros(BATCH, classes, dtype=torch.bool)
        annotated[:, :ANNOTATED] = True
        ours = {**batch, "annotated": annotated}
        steps[f"ours {classes}"] = partial(trainer.train_step, ours)
        differences[classes] = _disagreement(trainer, ours)
        if classes <= STOCK_UP_TO:
            stock = _tiny_training.make_trainer(peer_class, dataset_json, content, device)
            stock.train_step = nnUNetTrainer.train_step.__get__(stock)
            target = [_one_hot(level, classes) for level in batch["target"]]
            theirs = {**batch, "target": target}
            steps[f"stock {classes}"] = partial(stock.train_step, theirs)
    times = _measure.seconds(steps, repeats, device, clock)
    memory = {name: _measure.tensor_peak_mb(step, device) for name, step in steps.items() if name.startswith("ours")}
    for classes in COUNTS:
        stock_time = times.get(f"stock {classes}")
        _measure.report(
            "partial_label_step",
            classes=classes,
            annotated=ANNOTATED,
            size=size,
            device=device,
            threads=threads,
            clock=clock,
            ours_s=times[f"ours {classes}"],
            peer_s=times[f"ours {BASE}"],
            ratio=times[f"ours {classes}"] / times[f"ours {BASE}"],
            stock_s=stock_time,
            ratio_to_stock=times[f"ours {classes}"] / stock_time if stock_time else None,
            ours_peak_mb=memory[f"ours {classes}"],
            peer_peak_mb=memory[f"ours {BASE}"],
            agreement=differences[classes],
        )


def _batch(trainer: Any, size: int) -> dict[str, Any]:
    """Random images and label maps of every level."""
    torch.manual_seed(0)
    scales = trainer._get_deep_supervision_scales()
    label_maps = [
        torch.randint(0, ANNOTATED + 1, (BATCH, 1, *(round(size * factor) for factor in scale)), dtype=torch.int16)
        for scale in scales
    ]
    return {"data": torch.randn(BATCH, 1, size, size, size), "target": label_maps}


def _one_hot(label_map: Tensor, classes: int) -> Tensor:
    return label_map == torch.arange(1, classes + 1).view(1, -1, 1, 1, 1)


def _disagreement(trainer: Any, batch: dict[str, Any]) -> float:
    with torch.no_grad():
        selected = trainer._outputs_and_loss(batch)[-1]
        outputs = trainer.network(batch["data"].to(trainer.device))
        label_maps = [level.to(trainer.device) for level in batch["target"]]
        expected = trainer.loss(outputs, label_maps, batch["annotated"])
    return (abs(selected - expected) / abs(expected)).item()


if __name__ == "__main__":
    main()
