"""Distances between the surfaces of two masks.

The surface of a mask is the set of its voxels that have a face in common with a voxel outside it; what lies beyond the
image counts as outside. Distances run between voxel centres, in mm. These are the definitions of MONAI's metrics and
of Maier-Hein, Reinke et al., "Metrics reloaded", Nature Methods 2024.

Nearest neighbours come from SciPy's k-d tree. A Euclidean distance transform gives the same numbers, but it works on
every voxel of the box around both masks: one false positive voxel far away makes that box the whole scan. The tree
works on surface voxels only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

# Positions are products of index and spacing; their last digits must not decide whether 1 mm is within 1 mm.
_ROUNDING = 1e-6


def surface_points(
    mask: npt.NDArray[np.bool_],
    spacing: Sequence[float],
    offset: Sequence[int] = (),
    ignored: npt.NDArray[np.bool_] | None = None,
) -> npt.NDArray[np.float64]:
    """Positions of the surface voxels.

    Args:
        mask: Any number of axes, e.g. (z, y, x); may be cut to the box around the object.
        spacing: Voxel size in mm along each axis of the mask.
        offset: Index of the mask's first voxel in the image.
        ignored: Voxels of which nobody knows whether they belong to the object. What touches them with a face is no
            surface that could be measured.

    Returns:
        Shape (surface voxels, axes), in mm.
    """
    from scipy import ndimage

    surface = mask & ~ndimage.binary_erosion(mask)
    if ignored is not None and ignored.any():
        surface &= ~ndimage.binary_dilation(ignored)
    return (np.argwhere(surface) + np.array(offset or [0] * mask.ndim)) * np.array(spacing, dtype=np.float64)


@dataclass(frozen=True)
class SurfaceDistances:
    """Distance of every surface voxel of one mask to the nearest surface voxel of the other, in mm.

    Attributes:
        from_reference: One number for each surface voxel of the reference.
        from_prediction: One number for each surface voxel of the prediction.
    """

    from_reference: npt.NDArray[np.float64]
    from_prediction: npt.NDArray[np.float64]

    @classmethod
    def between(cls, reference: npt.NDArray[Any], prediction: npt.NDArray[Any]) -> SurfaceDistances:
        """Distances between two sets of points as `surface_points` returns them; neither may be empty."""
        from scipy.spatial import KDTree

        # Voxels lie on a lattice: splitting at the middle is as good as at the median, and much faster to build.
        trees = [KDTree(points, balanced_tree=False, compact_nodes=False) for points in (reference, prediction)]
        return cls(trees[1].query(reference)[0], trees[0].query(prediction)[0])

    def hausdorff(self, percentile: float = 95) -> float:
        """Hausdorff distance: the larger of the two percentiles of the directed distances."""
        return float(
            max(np.percentile(self.from_reference, percentile), np.percentile(self.from_prediction, percentile))
        )

    def mean(self) -> float:
        """Average symmetric surface distance: the mean over the voxels of both surfaces."""
        return float(np.concatenate([self.from_reference, self.from_prediction]).mean())

    def surface_dice(self, tolerance: float) -> float:
        """Share of both surfaces that lies within ``tolerance`` mm of the other (normalised surface distance).

        Nikolov et al., "Clinically applicable segmentation of head and neck anatomy", JMIR 2021; counted in surface
        voxels as in Metrics Reloaded.
        """
        distances = np.concatenate([self.from_reference, self.from_prediction])
        return float(np.mean(distances <= tolerance + _ROUNDING))
