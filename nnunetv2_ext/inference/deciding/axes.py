"""Where each voxel of a resampled axis takes its value from: the coordinates of nnU-Net's `order=1` resampling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Tile:
    """A run of input indices and the run of output indices that is interpolated from nothing else."""

    inputs: slice
    outputs: slice
    weights: np.ndarray
    """Float32 (outputs, inputs); each row holds at most two weights above zero and sums to one."""
    lower: np.ndarray
    """Uint32 (outputs,): the lower of the two inputs of each output, counted from the tile's first."""
    upper: np.ndarray
    """Uint32 (outputs,): the upper one; the same where nothing is interpolated."""
    weight: np.ndarray
    """Float64 (outputs,): the share of the upper one."""
    is_identity: bool


@dataclass(frozen=True)
class ResampledAxis:
    """Output index ``o`` is ``(1 - weight[o]) * input[lower[o]] + weight[o] * input[lower[o] + 1]``.

    Voxel centres sit at half-integers and coordinates are clamped to the outermost centres. That is
    ``torch.nn.functional.interpolate(align_corners=False)`` and, with ``mode="edge"`` and ``order=1``,
    ``skimage.transform.resize``, which nnU-Net calls.

    Attributes:
        size: Number of input indices.
        lower: Int64 (outputs,), ascending.
        weight: Float64 (outputs,) in [0, 1]; 0 wherever ``lower`` is the last input index.
    """

    size: int
    lower: np.ndarray
    weight: np.ndarray

    @classmethod
    def linear(cls, size: int, new_size: int) -> ResampledAxis:
        """Linear interpolation of ``size`` values at ``new_size`` positions."""
        centres = (np.arange(new_size) + 0.5) * (size / new_size) - 0.5
        clamped = np.clip(centres, 0, size - 1)
        lower = np.minimum(clamped.astype(np.int64), max(size - 2, 0))
        weight = clamped - lower
        # The last centre would count as "all of the upper neighbour"; on an unchanged axis it is a plain copy.
        last = weight == 1
        return cls(size, lower + last, np.where(last, 0.0, weight))

    @classmethod
    def nearest(cls, size: int, new_size: int) -> ResampledAxis:
        """The nearest value at each position: ``scipy.ndimage.map_coordinates(order=0)``, as nnU-Net's separate z."""
        centres = (size / new_size) * (np.arange(new_size) + 0.5) - 0.5
        lower = np.clip(np.floor(centres + 0.5).astype(np.int64), 0, size - 1)
        return cls(size, lower, np.zeros(new_size))

    @property
    def new_size(self) -> int:
        """Number of output indices."""
        return len(self.lower)

    @property
    def taps(self) -> int:
        """How many neighbouring inputs an output may need: 2, or 1 where nothing is interpolated."""
        return 2 if np.any(self.weight) else 1

    @property
    def upper(self) -> np.ndarray:
        """Int64 (outputs,): the last input index that an output needs."""
        return self.lower + (self.weight > 0)

    def part(self, inputs: slice, outputs: slice) -> ResampledAxis:
        """The same axis for a run of outputs that needs only the given run of inputs."""
        return ResampledAxis(inputs.stop - inputs.start, self.lower[outputs] - inputs.start, self.weight[outputs])

    def tiles(self, outputs_per_tile: int, fewest_inputs: int, most_inputs: int) -> list[Tile]:
        """Cuts the axis into tiles of about ``outputs_per_tile`` outputs; tiles without any output are left out.

        Args:
            outputs_per_tile: Outputs wished for.
            fewest_inputs: A tile covers at least so many inputs (fewer only at the end of the axis).
            most_inputs: A tile covers at most so many inputs, and one more where neighbours are interpolated.
        """
        step = round(outputs_per_tile * self.size / max(self.new_size, 1))
        step = min(max(step, fewest_inputs), most_inputs)
        tiles = []
        for start in range(0, self.size, step):
            first, last = np.searchsorted(self.lower, [start, start + step])
            if first == last:
                continue
            lower, weight = self.lower[first:last] - start, self.weight[first:last]
            stop = int(self.upper[first:last].max()) + 1
            weights = np.zeros((last - first, stop - start), dtype=np.float32)
            rows = np.arange(last - first)
            weights[rows, lower] = 1 - weight
            inner = weight > 0
            weights[rows[inner], lower[inner] + 1] = weight[inner]
            is_identity = not inner.any() and np.array_equal(lower, np.arange(stop - start))
            tiles.append(
                Tile(
                    slice(start, stop),
                    slice(int(first), int(last)),
                    weights,
                    lower.astype(np.uint32),
                    (lower + inner).astype(np.uint32),
                    weight,
                    is_identity,
                )
            )
        return tiles


#: The axes z, y and x of a volume.
Axes = tuple[ResampledAxis, ResampledAxis, ResampledAxis]


def resampled_axes(shape: Sequence[int], new_shape: Sequence[int], nearest_axis: int | None = None) -> Axes:
    """The three axes of a volume, all linear but ``nearest_axis``.

    Raises:
        ValueError: The shapes do not have three axes of at least one voxel each.
    """
    if len(shape) != 3 or len(new_shape) != 3 or min(*shape, *new_shape) < 1:
        raise ValueError(f"Expected two shapes (z, y, x) of at least one voxel, but got {shape} and {new_shape}.")
    z, y, x = (
        ResampledAxis.nearest(int(old), int(new)) if axis == nearest_axis else ResampledAxis.linear(int(old), int(new))
        for axis, (old, new) in enumerate(zip(shape, new_shape, strict=True))
    )
    return z, y, x


def separate_axis(
    current_spacing: Sequence[float], new_spacing: Sequence[float], force_separate_z: bool | None = None
) -> int | None:
    """The axis that nnU-Net resamples by nearest neighbour because the voxels are anisotropic, or None.

    The decision is nnU-Net's own (`determine_do_sep_z_and_axis`, `ANISO_THRESHOLD` = 3).

    Args:
        current_spacing: Spacing of the logits in mm, (z, y, x).
        new_spacing: Spacing of the label map in mm, (z, y, x).
        force_separate_z: As in the plans' ``resampling_fn_probabilities_kwargs``.
    """
    from nnunetv2.preprocessing.resampling.default_resampling import determine_do_sep_z_and_axis

    separate, axis = determine_do_sep_z_and_axis(force_separate_z, current_spacing, new_spacing)
    return int(axis) if separate and axis is not None else None
