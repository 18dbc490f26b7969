"""The published sizes of MedNeXt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class MedNeXtSize:
    """Depth and expansion of one published size (Table 2 of the paper); every size begins with 32 channels.

    Attributes:
        name: The word in trainer names (``small`` in ``MedNeXtTrainer_small``).
        parameters: Of the network with kernels of 3.
        expansion_ratios: Of the four encoder stages and the bottleneck; decoder stages have that of their encoder
            stage.
        blocks: The same for the number of blocks.
    """

    name: str
    parameters: str
    expansion_ratios: tuple[int, ...]
    blocks: tuple[int, ...]

    def arguments(self, kernel_size: int, dimensions: int = 3) -> dict[str, Any]:
        """What `MedNeXt` takes, under the names of its arguments, as they stand in a plans file."""
        *expansion, expansion_bottleneck = self.expansion_ratios
        *blocks, blocks_bottleneck = self.blocks
        return {
            "init_filters": 32,
            "encoder_expansion_ratio": expansion,
            "bottleneck_expansion_ratio": expansion_bottleneck,
            "decoder_expansion_ratio": expansion[::-1],
            "blocks_down": blocks,
            "blocks_bottleneck": blocks_bottleneck,
            "blocks_up": blocks[::-1],
            "kernel_size": kernel_size,
            "levels": len(blocks) + 1,
            "spatial_dims": dimensions,
        }


MEDNEXT_SIZES: dict[str, MedNeXtSize] = {
    "S": MedNeXtSize("small", "5.6 M", (2, 2, 2, 2, 2), (2, 2, 2, 2, 2)),
    "B": MedNeXtSize("base", "10.5 M", (2, 3, 4, 4, 4), (2, 2, 2, 2, 2)),
    "M": MedNeXtSize("medium", "17.6 M", (2, 3, 4, 4, 4), (3, 4, 4, 4, 4)),
    "L": MedNeXtSize("large", "61.8 M", (3, 4, 8, 8, 8), (3, 4, 8, 8, 8)),
}

#: Kernels of the published networks, and what trainers of the larger ones add to their names.
MEDNEXT_KERNELS: dict[int, str] = {3: "", 5: "_kernel5"}
