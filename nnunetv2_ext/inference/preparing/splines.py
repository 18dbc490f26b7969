"""nnU-Net's cubic resampling of images, plane by plane: the same values from a fraction of the memory and time.

nnU-Net calls ``skimage.transform.resize``, which calls ``scipy.ndimage.zoom``: both hold the whole volume several times
in float64 (for 600 planes of 512 x 512 voxels 5 GB), and 64 coefficients are multiplied and added for every voxel. But
spline interpolation, its prefilter and boundary included, is linear and separable: along each axis it is one matrix,
which SciPy itself tells when it is asked to resample the unit vectors. What remains are products of matrices.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Float64
from nnunetv2.preprocessing.resampling.default_resampling import determine_do_sep_z_and_axis
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager
from scipy import ndimage

# Columns that are resampled along z together: 64 kB of each plane.
_COLUMNS_AT_ONCE = 8192


class LeanConfiguration(ConfigurationManager):
    """A configuration of nnU-Net that resamples images with `resample_spline` wherever this gives the same values."""

    @property
    def resampling_fn_data(self) -> Any:
        """As nnU-Net's: a function of the data, the new shape, the current and the new spacing."""
        of_plans = super().resampling_fn_data
        options = self.configuration["resampling_fn_data_kwargs"]
        unusual = set(options) - {"is_seg", "order", "order_z", "force_separate_z"}
        order = options.get("order", 3)
        if (
            self.configuration["resampling_fn_data"] != "resample_data_or_seg_to_shape"
            or unusual
            or options.get("is_seg")
            or order < 2
        ):
            return of_plans

        def resample(
            data: Float32[np.ndarray, "channels z y x"],
            new_shape: Sequence[int],
            current_spacing: Sequence[float],
            new_spacing: Sequence[float],
        ) -> Float32[np.ndarray, "channels Z Y X"]:
            force = options.get("force_separate_z", False)
            if determine_do_sep_z_and_axis(force, current_spacing, new_spacing)[0]:
                return np.asarray(of_plans(data, new_shape, current_spacing, new_spacing))
            if data.shape[1:] == tuple(new_shape):
                return data
            return np.stack([resample_spline(channel, new_shape, order) for channel in data])

        return resample


def resample_spline(
    volume: Float[np.ndarray, "z y x"], new_shape: Sequence[int], order: int = 3
) -> Float[np.ndarray, "Z Y X"]:
    """Equal to ``skimage.transform.resize(volume, new_shape, order, mode="edge", anti_aliasing=False)``.

    Up to the rounding of float64 sums; like there, the result is clipped to the range of the input.

    Args:
        volume: Any floating type.
        new_shape: Shape (z, y, x) of the result.
        order: Degree of the spline, 1 to 5.

    Returns:
        The resampled volume, of the type of ``volume``.
    """
    along_z, along_y, along_x = (
        _spline_matrix(old, int(new), order) for old, new in zip(volume.shape, new_shape, strict=True)
    )
    planes = np.empty((len(volume), len(along_y), len(along_x)), dtype=np.float64)
    for plane, resampled in zip(volume, planes, strict=True):
        np.matmul(along_y @ plane.astype(np.float64), along_x.T, out=resampled)
    columns = planes.reshape(len(volume), -1)
    result = np.empty((len(along_z), columns.shape[1]), dtype=volume.dtype)
    lowest, highest = volume.min(), volume.max()
    for start in range(0, columns.shape[1], _COLUMNS_AT_ONCE):
        part = slice(start, start + _COLUMNS_AT_ONCE)
        result[:, part] = (along_z @ columns[:, part]).clip(lowest, highest)
    return result.reshape(len(along_z), len(along_y), len(along_x))


@lru_cache(maxsize=32)
def _spline_matrix(size: int, new_size: int, order: int) -> Float64[np.ndarray, "new_size size"]:
    """What the resampling of an axis does to each of its voxels, as SciPy does it."""
    if size == new_size:
        return np.eye(size)
    columns = [
        ndimage.zoom(unit, new_size / size, order=order, mode="nearest", grid_mode=True) for unit in np.eye(size)
    ]
    return np.stack(columns, axis=1)
