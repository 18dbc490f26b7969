"""Turning volumes to a standard orientation by permuting and flipping axes; voxels are never resampled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Shaped
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from nnunetv2_ext.images.nifti import affine_of
from nnunetv2_ext.images.reading import Grid


@dataclass(frozen=True)
class AxisTurn:
    """A permutation and flips of the axes (z, y, x).

    Attributes:
        order: Which axis of the image becomes the new z, y and x.
        flipped: Whether the new axis runs the other way.
    """

    order: tuple[int, int, int]
    flipped: tuple[bool, bool, bool]

    @classmethod
    def to(cls, orientation: str, grid: Grid) -> AxisTurn:
        """The turn that brings a grid to an orientation.

        Args:
            orientation: What x, y and z run towards, in NIfTI's letters: ``"RAS"`` is right, anterior, superior.
            grid: Where the voxels lie; oblique axes count as the anatomical axis that they are closest to.
        """
        # Per image axis (x, y, z): which target axis it becomes, and with which sign.
        transform = ornt_transform(io_orientation(affine_of(grid)), axcodes2ornt(tuple(orientation)))
        order, flipped = [0, 0, 0], [False, False, False]
        for axis, (target, sign) in enumerate(transform):
            order[2 - int(target)] = 2 - axis
            flipped[2 - int(target)] = sign < 0
        return cls((order[0], order[1], order[2]), (flipped[0], flipped[1], flipped[2]))

    def forward(self, array: Shaped[np.ndarray, "... z y x"]) -> Shaped[np.ndarray, "... u v w"]:
        """Turns the last three axes of an array."""
        lead = array.ndim - 3
        turned = array.transpose(*range(lead), *(lead + axis for axis in self.order))
        return np.flip(turned, tuple(lead + axis for axis in range(3) if self.flipped[axis]))

    def back(self, array: Shaped[np.ndarray, "... u v w"]) -> Shaped[np.ndarray, "... z y x"]:
        """Undoes `forward`."""
        lead = array.ndim - 3
        straight = np.flip(array, tuple(lead + axis for axis in range(3) if self.flipped[axis]))
        return straight.transpose(*range(lead), *(lead + int(axis) for axis in np.argsort(self.order)))

    def reorder(self, values: Sequence[float]) -> tuple[float, float, float]:
        """Puts values that belong to the axes (z, y, x), such as spacings, in the new order."""
        return (values[self.order[0]], values[self.order[1]], values[self.order[2]])
