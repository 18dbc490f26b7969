"""Samples per second of `LabelMapDataLoader` against stock region loading, with 47 and 117 classes.

Both load the same preprocessed cases with nnU-Net's training augmentation and downsampling for deep supervision, in one
process; the patch is 64^3 and the batch 2. A case annotates 13 of the 47 classes (as BTCV does in MultiTalent's
collection) and 61 of the 117 (as many of TotalSegmentator's as a CT of thorax and abdomen contains). Peak memory is
that of one batch.

The peer is nnU-Net's own `nnUNetDataLoader` on the same dataset.json, whose classes are lists of at least two label
values (``[3, 3]``), for which nnU-Net's conversion calls `torch.isin`. ``single_value_s`` is the same with a single
value for each class, which a dataset.json may give for some of its classes and for which nnU-Net compares.

Least work: decompress one patch of the image (4 bytes per voxel) and of the label map (2), interpolate both once where
the patch is rotated or scaled, and hand over 5.1 bytes per voxel; the augmentation, which both share, is most of the
time. The peer adds one pass over the label map and one byte per voxel for each class.

``ratio`` is the peer's time by ours: how many times as many samples per second. ``target_bytes_ratio`` and
``batch_bytes_ratio`` are bytes sent to the device per batch against the peer: of the target alone, and of target and
image together. Agreement: number of voxels in which the peer's target differs from ours looked up in the region table,
on the validation transforms, where nothing is random.
"""

from __future__ import annotations

import argparse
from typing import Any

import _measure
import _tiny_training
import numpy as np
import torch

PATCH, BATCH, CASE, CASES = 64, 2, 96, 4
ANNOTATED = {47: 13, 117: 61}


def main() -> None:
    """Prints one line per number of classes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, nargs="+", choices=list(ANNOTATED), default=list(ANNOTATED))
    parser.add_argument("--size", type=int, default=PATCH, help="edge of the patch in voxels")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--clock", default="wall", choices=["wall", "cpu"], help="cpu: for one thread, when busy")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # as in nnU-Net's workers
    for classes in arguments.classes:
        with _tiny_training.nnunet_folders():
            _run(classes, arguments.size, arguments.repeats, arguments.clock)


def _run(classes: int, size: int, repeats: int, clock: str) -> None:
    from nnunetv2_ext.training.trainers import multitalent, stunet

    # Made from the table of variants, not written out.
    ours_class, peer_class = vars(multitalent)["MultiTalentTrainer_stunet_small"], vars(stunet)["STUNetTrainer_small"]

    content = _tiny_training.plans(size, BATCH)
    dataset_json = _tiny_training.collection(classes, CASES, ANNOTATED[classes])
    _tiny_training.write_cases(dataset_json, content, max(CASE, size))
    ours, peer, single = (
        _tiny_training.make_trainer(trainer_class, dataset_json, content, "cpu")
        for trainer_class in (ours_class, peer_class, peer_class)
    )
    single.label_manager._regions = [(value,) for value in range(1, classes + 1)]
    ours_train, ours_validation = ours.get_dataloaders()
    peer_train, peer_validation = peer.get_dataloaders()
    single_train, _ = single.get_dataloaders()
    for loader in (ours_train, ours_validation):
        loader.data_loader.sampling_probabilities = None  # all equal here; given, they would change the random numbers

    def draw(loader: Any, seed: int) -> Any:
        np.random.seed(seed)  # noqa: NPY002  nnU-Net draws cases, patches and augmentations from the global state
        torch.manual_seed(seed)
        return next(loader)

    seeds = {name: iter(range(10_000)) for name in ("ours", "peer", "single")}
    times = _measure.seconds(
        {
            "ours": lambda: draw(ours_train, next(seeds["ours"])),
            "peer": lambda: draw(peer_train, next(seeds["peer"])),
            "single": lambda: draw(single_train, next(seeds["single"])),
        },
        repeats,
        clock=clock,
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
        annotated=ANNOTATED[classes],
        size=size,
        clock=clock,
        ours_s=times["ours"] / BATCH,
        peer_s=times["peer"] / BATCH,
        ratio=times["peer"] / times["ours"],
        single_value_s=times["single"] / BATCH,
        ratio_to_single_value=times["single"] / times["ours"],
        ours_peak_mb=_measure.extra_peak_mb(lambda: draw(ours_train, 1)),
        peer_peak_mb=_measure.extra_peak_mb(lambda: draw(peer_train, 1)),
        target_bytes=targets[0],
        target_bytes_ratio=targets[0] / targets[1],
        batch_bytes_ratio=batches[0] / batches[1],
        agreement=float(disagreement),
    )


if __name__ == "__main__":
    main()
