"""Walks over the annotated channels of a batch with buffers of one class.

Shared by the loss and the pseudo Dice of validation, so that neither ever holds an array of all classes.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

# One class of a 64^3 patch in float32 is 1 MB and stays in a core's cache; an accelerator rather wants few launches.
_BUFFER_VOXELS_CPU = 2**18
_BUFFER_VOXELS_ACCELERATOR = 2**23


class Sample:
    """What the classes of one image share.

    Attributes:
        index: Position in the batch.
        labels: Int64 (voxels,), indices into the table of signs.
        valid: 1 where the voxel counts and 0 where it is ignored, (voxels,); `None` when nothing can be ignored.
        voxels: Number of voxels that count, at least 1.
    """

    def __init__(self, index: int, label_map: Tensor, ignore_label: int | None, dtype: torch.dtype) -> None:
        self.index = index
        self.labels = label_map[index].flatten().long()
        self.valid: Tensor | None = None
        self.voxels: Tensor | int = max(1, self.labels.numel())
        if ignore_label is not None:
            self.valid = (self.labels != ignore_label).to(dtype)
            self.voxels = self.valid.sum().clamp_min(1)


def annotated_samples(
    label_map: Tensor, annotated: Bool[Tensor, "batch channels"], ignore_label: int | None, dtype: torch.dtype
) -> Iterator[Sample]:
    """The images that annotate at least one class, one after the other so that only one is held."""
    for index in annotated.any(1).nonzero().flatten().tolist():
        yield Sample(index, label_map, ignore_label, dtype)


def channel_runs(
    annotated: Bool[Tensor, " channels"], logits: Float[Tensor, "batch channels voxels"]
) -> Iterator[slice]:
    """Neighbouring annotated channels, as many at once as fit in the buffer, so that small levels need few steps."""
    buffer = _BUFFER_VOXELS_CPU if logits.device.type == "cpu" else _BUFFER_VOXELS_ACCELERATOR
    longest = max(1, buffer // max(1, logits.shape[2]))
    edges = np.flatnonzero(np.diff(annotated.numpy().astype(np.int8), prepend=0, append=0))
    for start, stop in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        for first in range(start, stop, longest):
            yield slice(first, min(first + longest, stop))


def look_up(
    table: Float[Tensor, "channels values"], labels: Int[Tensor, " voxels"]
) -> Float[Tensor, "channels voxels"]:
    """Entries of a table by class and label value, for every voxel."""
    if len(table) == 1:  # much faster on CPU than along the second axis
        return table[0].index_select(0, labels)[None]
    return table.index_select(1, labels)
