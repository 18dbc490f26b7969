"""Where the windows of an image lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TypeVar

from torch import Tensor

T = TypeVar("T")

Slices = tuple[slice, slice, slice]


@dataclass(frozen=True)
class WindowPlan:
    """Where the windows of an image lie.

    Attributes:
        padded_shape: The image's shape (z, y, x) after padding to the patch size.
        inside: Where the image lies in the padded shape.
        patch_size: (z, y, x); the first is 1 for a network of two dimensions.
        starts: First voxel of the windows along each axis.
        axis: The axis along which finished planes are handed on.
    """

    padded_shape: tuple[int, int, int]
    inside: Slices
    patch_size: tuple[int, int, int]
    starts: tuple[list[int], list[int], list[int]]
    axis: int

    @property
    def num_windows(self) -> int:
        """How many windows the image takes, skipped ones included."""
        return prod(map(len, self.starts))

    @property
    def buffer_shape(self) -> tuple[int, int, int]:
        """Shape of the ring of planes."""
        return replaced(self.padded_shape, self.axis, self.patch_size[self.axis])

    def window(self, position: Sequence[int]) -> Slices:
        """The voxels of the window whose first voxel is given."""
        return triple([slice(start, start + size) for start, size in zip(position, self.patch_size, strict=True)])

    def pad(self, volume: Tensor) -> Tensor:
        """Pads with zeros, as nnU-Net; the volume itself (channels, z, y, x) where nothing is missing."""
        if tuple(volume.shape[1:]) == self.padded_shape:
            return volume
        padded = volume.new_zeros((len(volume), *self.padded_shape))
        padded[everywhere(self.inside)] = volume
        return padded


def padding(shape: Sequence[int], patch_size: Sequence[int]) -> tuple[tuple[int, int, int], Slices]:
    """The shape after padding to the patch size, and where the image lies in it: the smaller half comes first."""
    padded = triple([max(size, least) for size, least in zip(shape, patch_size, strict=True)])
    before = [(new - old) // 2 for old, new in zip(shape, padded, strict=True)]
    return padded, triple([slice(first, first + size) for first, size in zip(before, shape, strict=True)])


def nnunet_plan(
    shape: Sequence[int], patch_size: Sequence[int], step_size: float, axis: int | None = None, *, in_order: bool
) -> WindowPlan:
    """nnU-Net's windows of an image.

    Args:
        shape: Of the image (z, y, x).
        patch_size: (z, y, x), or (y, x) for a network that predicts slice by slice.
        step_size: Distance of neighbouring windows as a share of the patch size.
        axis: Along which axis to hand planes on; by default the one that needs the least memory.
        in_order: Without ``axis``, take the first axis that has more than one window instead: that is the order in
            which nnU-Net's windows run, last axis fastest.
    """
    from nnunetv2.inference.sliding_window_prediction import compute_steps_for_sliding_window

    patch = triple([1, *patch_size][-3:])
    padded, inside = padding(shape, patch)
    in_plane = slice(3 - len(patch_size), 3)
    steps = compute_steps_for_sliding_window(padded[in_plane], patch[in_plane], step_size)
    starts = triple([list(range(padded[0])), *steps][-3:])
    if axis is None and in_order:
        axis = next((along for along in range(3) if len(starts[along]) > 1), 0)
    elif axis is None:
        axis = min(range(3), key=lambda along: patch[along] / padded[along])
    return WindowPlan(padded, inside, patch, starts, axis)


def everywhere(where: Slices) -> tuple[slice, slice, slice, slice]:
    """The same place in all channels."""
    return (slice(None), *where)


def triple(values: Sequence[T]) -> tuple[T, T, T]:
    """Three values as a tuple."""
    first, second, third = values
    return first, second, third


def replaced(values: Sequence[T], index: int, value: T) -> tuple[T, T, T]:
    """Three values, one of which is replaced."""
    return triple([*values[:index], value, *values[index + 1 :]])
