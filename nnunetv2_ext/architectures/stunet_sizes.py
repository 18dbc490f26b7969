"""The published sizes of STU-Net, and the strides that plans give it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Stride = Sequence[int]


@dataclass(frozen=True)
class STUNetSize:
    """Width and depth of one published size (Table 1 of the paper).

    Attributes:
        name: The word in trainer names and file names (``small`` in ``STUNetTrainer_small``, ``small_ep4k.model``).
        features_per_stage: Channels of the six encoder stages.
        n_blocks_per_stage: Residual blocks of each encoder stage; decoder stages have as many as their encoder stage.
    """

    name: str
    features_per_stage: tuple[int, ...]
    n_blocks_per_stage: tuple[int, ...]

    @property
    def arguments(self) -> dict[str, Any]:
        """What `STUNet` takes, under the names of its arguments, as they stand in a plans file."""
        return {
            "features_per_stage": list(self.features_per_stage),
            "n_blocks_per_stage": list(self.n_blocks_per_stage),
        }


def _size(name: str, base_features: int, depth: int) -> STUNetSize:
    return STUNetSize(name, tuple(base_features * factor for factor in (1, 2, 4, 8, 16, 16)), (depth,) * 6)


STUNET_SIZES: dict[str, STUNetSize] = {
    "S": _size("small", 16, 1),
    "B": _size("base", 32, 1),
    "L": _size("large", 64, 2),
    "H": _size("huge", 96, 3),
}

#: Strides of the published TotalSegmentator checkpoints (z, y, x), first stage included.
PUBLISHED_STRIDES: tuple[tuple[int, int, int], ...] = ((1, 1, 1), *((2, 2, 2),) * 4, (1, 1, 2))


def stunet_strides(plan_strides: Sequence[Stride], n_stages: int = 6) -> list[list[int]]:
    """Turns the strides of a plan into those of an STU-Net with ``n_stages`` stages, as the published code does.

    Args:
        plan_strides: One stride per stage of the plan, (z, y, x) or (y, x), the first being all ones.
        n_stages: Stages of the network; six for the published sizes.

    Returns:
        ``n_stages`` strides: the plan's, cut after the last stage or padded with ones.
    """
    dimensions = len(plan_strides[0])
    strides = [list(map(int, stride)) for stride in plan_strides[:n_stages]]
    return strides + [[1] * dimensions for _ in range(n_stages - len(strides))]


def strides_that_fit(strides: Sequence[Stride], patch_size: Sequence[int]) -> list[list[int]]:
    """Replaces strides by ones where the feature map would shrink to a single voxel.

    Instance normalisation cannot train on one voxel per channel; a plan made for another network may lead there.

    Args:
        strides: One per stage, (z, y, x) or (y, x).
        patch_size: Voxels, same axes.

    Returns:
        The strides, equal to the input where nothing has to change.
    """
    size = list(patch_size)
    fitting = []
    for stride in strides:
        shrunk = [math.ceil(extent / step) for extent, step in zip(size, stride, strict=True)]
        if math.prod(shrunk) == 1 and math.prod(size) > 1:
            stride, shrunk = [1] * len(size), size
        fitting.append(list(map(int, stride)))
        size = shrunk
    return fitting
