"""How often each label value occurs."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

_PIECE = 1 << 22


def count_label_values(label_map: npt.NDArray[np.integer[Any]], number_of_values: int) -> npt.NDArray[np.int64]:
    """Number of voxels of each of the values 0 to ``number_of_values - 1``.

    Args:
        label_map: Integers in that range, any shape.
        number_of_values: One more than the highest value.

    Returns:
        Shape (number_of_values,).
    """
    counts = np.zeros(number_of_values, dtype=np.int64)
    flat = label_map.reshape(-1)
    # bincount converts its input to 64 bit; in pieces that copy stays small.
    for start in range(0, flat.size, _PIECE):
        counts += np.bincount(flat[start : start + _PIECE], minlength=number_of_values)
    return counts
