"""Samples per second of `LabelMapDataLoader` against stock region loading, with 47 and 117 classes.

Both load the same preprocessed cases with nnU-Net's training augmentation and downsampling for deep supervision, in one
process; the patch is 64^3 and the batch 2. The peer is nnU-Net's own `nnUNetDataLoader` with its conversion to region
one-hots, each region given as a single value: then nnU-Net compares, where it calls the much slower `torch.isin` for
the lists of two values (``[3, 3]``) by which a dataset.json asks for sigmoid outputs. The latter, which is what stock
nnU-Net does with the same collection, is ``stock_s``. Peak memory is that of one batch.

Least work: decompress one patch of the image (4 bytes per voxel) and of the label map (2), interpolate both once where
the patch is rotated or scaled, and hand over 6.9 bytes per voxel; the augmentation of the image, which both share, is
most of the time. The peer adds one pass over the label map and one byte per voxel for each class.

``ratio`` is the peer's time by ours: how many times as many samples per second. ``target_bytes_ratio`` and
``batch_bytes_ratio`` are bytes sent to the device per batch against the peer: of the target alone, and of target and
image together. Agreement: largest difference between the peer's target and ours compared through the region table (0
when they are equal), on the validation transforms, where nothing is random.
"""

from __future__ import annotations

import argparse

import _measure
import _tiny_training
import numpy as np
import torch

PATCH, BATCH, CASE, CASES = 64, 2, 96, 4


def main() -> None:
    """Prints one line per number of classes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, nargs="+", default=[47, 117])
    parser.add_argument("--size", type=int, default=PATCH, help="edge of the patch in voxels")
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # as in nnU-Net's workers
    for classes in arguments.classes:
        with _tiny_training.nnunet_folders():
            _run(classes, arguments.size, arguments.repeats)


def _run(classes: int, size: int, repeats: int) -> None:
    from nnunetv2_ext.training.trainers.multitalent import MultiTalentTrainer_stunet_small
    from nnunetv2_ext.training.trainers.stunet import STUNetTrainer_small

    content = _tiny_training.plans(size, BATCH)
    dataset_json = _tiny_training.collection(classes, CASES, classes)
    _tiny_training.write_cases(dataset_json, content, max(CASE, size))
    ours, peer, stock = (
        _tiny_training.make_trainer(trainer_class, dataset_json, content, "cpu")
        for trainer_class in (MultiTalentTrainer_stunet_small, STUNetTrainer_small, STUNetTrainer_small)
    )
    peer.label_manager._regions = [(value,) for value in range(1, classes + 1)]
    ours_train, ours_validation = ours.get_dataloaders()
    peer_train, peer_validation = peer.get_dataloaders()
    stock_train, _ = stock.get_dataloaders()
    for loader in (ours_train, ours_validation):
        loader.data_loader.sampling_probabilities = None  # all equal here; given, they would change the random numbers

    def draw(loader, seed: int) -> dict:
        np.random.seed(seed)  # noqa: NPY002  nnU-Net draws cases, patches and augmentations from the global state
        torch.manual_seed(seed)
        return next(loader)

    seeds = {name: iter(range(10_000)) for name in ("ours", "peer", "stock")}
    times = _measure.seconds(
        {
            "ours": lambda: draw(ours_train, next(seeds["ours"])),
            "peer": lambda: draw(peer_train, next(seeds["peer"])),
            "stock": lambda: draw(stock_train, next(seeds["stock"])),
        },
        repeats,
    )
    ours_batch, peer_batch = draw(ours_validation, 0), draw(peer_validation, 0)
    table = torch.from_numpy(ours.partial_labels.region_table())
    disagreement = max(
        (table[:, label_map[:, 0].long()].transpose(0, 1) != one_hot).sum().item()
        for label_map, one_hot in zip(ours_batch["target"], peer_batch["target"], strict=True)
    )
    targets = [sum(level.nbytes for level in batch["target"]) for batch in (ours_batch, peer_batch)]
    batches = [nbytes + ours_batch["data"].nbytes for nbytes in targets]
    _measure.report(
        "partial_label_loading",
        classes=classes,
        size=size,
        ours_s=times["ours"] / BATCH,
        peer_s=times["peer"] / BATCH,
        ratio=times["peer"] / times["ours"],
        stock_s=times["stock"] / BATCH,
        ratio_to_stock=times["stock"] / times["ours"],
        ours_peak_mb=_measure.extra_peak_mb(lambda: draw(ours_train, 1)),
        peer_peak_mb=_measure.extra_peak_mb(lambda: draw(peer_train, 1)),
        target_bytes=targets[0],
        target_bytes_ratio=targets[0] / targets[1],
        batch_bytes_ratio=batches[0] / batches[1],
        agreement=float(disagreement),
    )


if __name__ == "__main__":
    main()
