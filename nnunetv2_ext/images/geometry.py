"""Where the voxels of an image lie, and turns of its axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from jaxtyping import Shaped

if TYPE_CHECKING:
    import nibabel
    import SimpleITK

# Half a percent of a voxel or of a unit vector: what rounding in headers of 32-bit floats and of text files explains.
_ROUNDING = 5e-3

# SimpleITK points to the left and to the back of the patient (LPS), NIfTI to the right and to the front (RAS).
_LPS_AND_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Grid:
    """Where the voxels of an image lie, in SimpleITK's conventions: (x, y, z), mm, LPS.

    Attributes:
        size: Voxels along x, y (and z).
        spacing: mm.
        origin: Centre of the first voxel, mm.
        direction: Direction cosines, row by row; column ``i`` is the direction of index axis ``i``.
        nifti_header: The header that the image came with, where it was NIfTI: its geometry is copied to the result bit
            by bit (both transforms with their codes, which SimpleITK would merge into one).
        placed: Whether this is said of the patient; of arrays and pictures nobody knows how they lie.
    """

    size: tuple[int, ...]
    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[float, ...]
    nifti_header: nibabel.Nifti1Header | None = field(default=None, compare=False, repr=False)
    placed: bool = field(default=True, compare=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of an array on this grid: (z, y, x), z = 1 for two dimensions."""
        return (1,) * (3 - self.dimension) + self.size[::-1]

    @property
    def dimension(self) -> int:
        """2 or 3."""
        return len(self.size)

    @property
    def voxel_volume_ml(self) -> float:
        """Volume of a voxel; of a pixel, one millimetre thick, in two dimensions."""
        return float(np.prod(self.spacing)) / 1000

    @property
    def matrix(self) -> npt.NDArray[np.float64]:
        """Index (x, y, z) to LPS mm: 4 x 4."""
        matrix, axes = np.eye(4), self.dimension
        matrix[:axes, :axes] = np.reshape(self.direction, (axes, axes)) * np.asarray(self.spacing)
        matrix[:axes, 3] = self.origin
        return matrix

    @property
    def affine(self) -> npt.NDArray[np.float64]:
        """Index (x, y, z) to position in NIfTI's RAS+ millimetres: 4 x 4."""
        return _LPS_AND_RAS @ self.matrix

    @property
    def header_affine(self) -> npt.NDArray[np.float64]:
        """`affine`, in the header's own numbers where the image was NIfTI."""
        return self.affine if self.nifti_header is None else self.nifti_header.get_best_affine()

    @property
    def orientation(self) -> str | None:
        """What x, y and z run towards, in NIfTI's letters: ``"RAS"`` is right, anterior, superior.

        Oblique axes count as the anatomical ones that they are closest to. None in two dimensions, and where nobody
        knows.
        """
        from nibabel.orientations import aff2axcodes

        return "".join(aff2axcodes(self.affine)) if self.placed and self.dimension == 3 else None

    @classmethod
    def of(cls, image: SimpleITK.Image | SimpleITK.ImageFileReader) -> Grid:
        """The grid of a SimpleITK image, or of one whose header was read; of the first three axes if there are more."""
        axes = min(len(image.GetSize()), 3)
        direction = np.reshape(image.GetDirection(), (len(image.GetSize()),) * 2)[:axes, :axes]
        spacing = tuple(abs(value) for value in image.GetSpacing()[:axes])
        return cls(image.GetSize()[:axes], spacing, image.GetOrigin()[:axes], tuple(map(float, direction.ravel())))

    @classmethod
    def of_affine(cls, affine: npt.NDArray[np.float64], size: Sequence[int]) -> tuple[Grid, float]:
        """The grid with right angles that is nearest to an affine (RAS+ mm), and how many degrees the axes are off."""
        matrix, axes = _LPS_AND_RAS @ affine, len(size)
        spacing = np.linalg.norm(matrix[:3, :3], axis=0)
        cosines = matrix[:3, :3] / spacing
        left, _, right = np.linalg.svd(cosines)
        direction = left @ right
        deviation = float(np.degrees(np.arcsin(min(1.0, np.abs(cosines - direction).max()))))
        grid = cls(
            tuple(int(n) for n in size),
            tuple(map(float, spacing[:axes])),
            tuple(map(float, matrix[:axes, 3])),
            tuple(map(float, direction[:axes, :axes].ravel())),
        )
        return grid, deviation

    def image(self, array: Shaped[np.ndarray, "z y x ..."]) -> SimpleITK.Image:
        """Puts an array, ``(z, y, x)`` with z = 1 for two dimensions, on this grid; a fourth axis holds colours."""
        import SimpleITK

        voxels = np.ascontiguousarray(array[0] if self.dimension == 2 else array)
        image = SimpleITK.GetImageFromArray(voxels, isVector=array.ndim == 4)
        image.SetSpacing(self.spacing)
        image.SetOrigin(self.origin)
        image.SetDirection(self.direction)
        return image

    def difference(self, other: Grid, *, rounding: float = _ROUNDING, positions: bool = True) -> str | None:
        """What tells the two grids apart beyond rounding, in words; None where nothing does.

        Args:
            other: The other grid.
            rounding: Share of a voxel, or of a unit vector, that does not count.
            positions: Whether origin and directions count, beside size and spacing.
        """
        if self.size != other.size:
            return f"{listed(self.size)} voxels and {listed(other.size)}"
        if not np.allclose(self.spacing, other.spacing, rtol=rounding):
            return f"a spacing of {listed(self.spacing)} mm and {listed(other.spacing)} mm"
        if positions and not np.allclose(self.direction, other.direction, atol=rounding):
            return f"axes along {listed(self.direction)} and {listed(other.direction)}"
        # The tolerance grows with the size because a rounded spacing shifts the far corner by that much.
        if positions and not np.allclose(self.origin, other.origin, atol=rounding * max(self.spacing) * 10):
            return f"an origin at {listed(self.origin)} mm and {listed(other.origin)} mm"
        return None


@dataclass(frozen=True)
class AxisTurn:
    """A permutation and flips of the axes (z, y, x): voxels are never resampled.

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
            orientation: See `Grid.orientation`.
            grid: Where the voxels lie.
        """
        from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

        # Per image axis (x, y, z): which target axis it becomes, and with which sign.
        transform = ornt_transform(io_orientation(grid.affine), axcodes2ornt(tuple(orientation)))
        order, flipped = [0, 0, 0], [False, False, False]
        for axis, (target, sign) in enumerate(transform):
            order[2 - int(target)] = 2 - axis
            flipped[2 - int(target)] = sign < 0
        return cls((order[0], order[1], order[2]), (flipped[0], flipped[1], flipped[2]))

    @property
    def changes_nothing(self) -> bool:
        """Whether everything stays where it is."""
        return self == AxisTurn((0, 1, 2), (False, False, False))

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

    def grid(self, grid: Grid) -> Grid:
        """The grid of what `forward` makes of an image in three dimensions."""
        axes = [2 - axis for axis in reversed(self.order)]
        signs = np.where(self.flipped[::-1], -1.0, 1.0)
        direction = np.reshape(grid.direction, (3, 3))[:, axes] * signs
        size = [grid.size[axis] for axis in axes]
        # The first voxel of a flipped axis is the last one of the image.
        first = np.zeros(4)
        first[axes] = np.where(self.flipped[::-1], np.array(size) - 1, 0)
        first[3] = 1
        return replace(
            grid,
            size=tuple(size),
            spacing=tuple(grid.spacing[axis] for axis in axes),
            origin=tuple(map(float, (grid.matrix @ first)[:3])),
            direction=tuple(map(float, direction.ravel())),
            nifti_header=None,
        )


def listed(values: Sequence[float]) -> str:
    """Numbers as a sentence names them: ``(0.5, 0.5, 3)``."""
    return "(" + ", ".join(f"{value:.5g}" for value in values) + ")"
