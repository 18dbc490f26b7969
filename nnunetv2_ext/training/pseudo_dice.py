"""The counts behind nnU-Net's pseudo Dice, of annotated classes only."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nnunetv2_ext.training.loss.annotated_channels import annotated_samples, channel_runs, look_up


def count_hits(
    logits: Float[Tensor, "batch channels *spatial"],
    label_map: Int[Tensor, "batch 1 *spatial"],
    annotated: Bool[Tensor, "batch channels"],
    regions: Bool[Tensor, "channels values"],
    ignore_label: int | None = None,
) -> Int[Tensor, "3 channels"]:
    """True positives, false positives and false negatives of each class over the images that annotate it.

    A class is predicted where its logit is above 0 (sigmoid above 0.5). Classes that no image annotates count 0, 0, 0,
    whose Dice is undefined and is left out of nnU-Net's mean.

    Args:
        logits: Outputs of the full resolution; spatial axes (z, y, x) or (y, x).
        label_map: Label values, all of them columns of ``regions`` (or the ignore label).
        annotated: Which channels each image annotates, on the CPU.
        regions: Which label values each channel consists of.
        ignore_label: Label value of voxels that count nowhere.
    """
    counts = torch.zeros(3, logits.shape[1], dtype=torch.int64, device=logits.device)
    table = regions.to(device=logits.device, dtype=torch.float32)
    if ignore_label is not None:
        table = torch.nn.functional.pad(table, (0, max(0, ignore_label + 1 - table.shape[1])))
        table[:, ignore_label] = 0
    flat_logits = logits.flatten(2)
    for sample in annotated_samples(label_map, annotated, ignore_label, torch.float32):
        for channels in channel_runs(annotated[sample.index], flat_logits):
            predicted = flat_logits[sample.index, channels] > 0
            if sample.valid is not None:
                predicted &= sample.valid > 0
            reference = look_up(table[channels], sample.labels) > 0
            hits = (predicted & reference).sum(1)
            counts[:, channels] += torch.stack((hits, predicted.sum(1) - hits, reference.sum(1) - hits))
    return counts


def count_leaf_hits(
    leaves: Int[Tensor, batch * spatial],
    label_map: Int[Tensor, batch * spatial],
    counted: Bool[Tensor, "batch nodes"],
    belongs: Bool[Tensor, "nodes values"],
    ignore_label: int | None = None,
) -> Int[Tensor, "3 nodes"]:
    """True positives, false positives and false negatives of the nodes of a label tree.

    One table of (predicted leaf, label value) pairs holds all that is needed; it costs the same for any number of
    nodes.

    Args:
        leaves: Predicted leaves.
        label_map: Node integers, or the ignore label.
        counted: Which nodes count in each image, on the CPU.
        belongs: Which label values belong to which node, on the CPU.
        ignore_label: Label value of voxels that count nowhere.
    """
    nodes, values = belongs.shape
    counts = torch.zeros(3, nodes, dtype=torch.int64)
    table = belongs.long()
    for predicted, reference, chosen in zip(
        leaves.flatten(1).long(), label_map.flatten(1).long(), counted, strict=True
    ):
        if ignore_label is not None:
            valid = reference != ignore_label
            predicted, reference = predicted[valid], reference[valid]
        pairs = torch.bincount(predicted * values + reference, minlength=values * values).reshape(values, values).cpu()
        hits = ((table @ pairs) * table).sum(1)
        found, true = table @ pairs.sum(1), table @ pairs.sum(0)
        counts += torch.stack((hits, found - hits, true - hits)) * chosen
    return counts
