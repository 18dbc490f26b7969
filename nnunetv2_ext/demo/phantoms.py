"""Synthetic abdominal CTs: organs as ellipsoids and tubes with the HU that such tissue has in contrast-enhanced CT.

A phantom stands in for a patient where no data may be shipped. Position, size and attenuation of every structure, the
voxel spacing and the field of view vary from case to case; the image has noise, a smooth bias field and the blur of a
scanner. The same seed always gives the same phantom.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from jaxtyping import Bool, Float, Int16, UInt8

Vector = tuple[float, float, float]


@dataclass(frozen=True)
class Ellipsoid:
    """One part of a structure; millimetres, relative to the middle of the body, (z, y, x).

    z points to the head, y to the back, x to the patient's left. An infinite half axis makes a tube.
    """

    center: Vector
    half_axes: Vector


@dataclass(frozen=True)
class Structure:
    """A structure of the phantom.

    Attributes:
        name: Class name.
        hounsfield: Mean attenuation in HU.
        parts: Its ellipsoids.
    """

    name: str
    hounsfield: float
    parts: tuple[Ellipsoid, ...]


_TUBE = float("inf")
AIR, FAT, SOFT_TISSUE = -1000.0, -100.0, 40.0
BODY = Ellipsoid((0.0, 0.0, 0.0), (_TUBE, 105.0, 150.0))
SUBCUTANEOUS_FAT_MM = 14.0

# In the order of painting: later ones cover earlier ones. The label value of a structure is its position, from 1.
STRUCTURES: tuple[Structure, ...] = (
    Structure(
        "lungs",
        -850.0,
        (Ellipsoid((105.0, 0.0, -75.0), (75.0, 72.0, 52.0)), Ellipsoid((110.0, 0.0, 78.0), (80.0, 70.0, 50.0))),
    ),
    Structure(
        "liver",
        110.0,
        (Ellipsoid((5.0, -12.0, -66.0), (58.0, 68.0, 62.0)), Ellipsoid((10.0, -48.0, -5.0), (34.0, 34.0, 50.0))),
    ),
    Structure("spleen", 125.0, (Ellipsoid((10.0, 40.0, 88.0), (44.0, 34.0, 24.0)),)),
    Structure(
        "kidneys",
        165.0,
        (Ellipsoid((-72.0, 46.0, -58.0), (44.0, 25.0, 26.0)), Ellipsoid((-60.0, 46.0, 60.0), (44.0, 25.0, 26.0))),
    ),
    Structure("aorta", 220.0, (Ellipsoid((0.0, 30.0, 14.0), (_TUBE, 14.0, 14.0)),)),
    Structure("vertebrae", 450.0, (Ellipsoid((0.0, 66.0, 0.0), (_TUBE, 20.0, 23.0)),)),
    Structure("liver_tumour", 55.0, (Ellipsoid((0.0, -5.0, -75.0), (20.0, 20.0, 20.0)),)),
)
LABEL_VALUES = {structure.name: value for value, structure in enumerate(STRUCTURES, start=1)}


@dataclass(frozen=True)
class Phantom:
    """A synthetic CT with its complete annotation.

    Attributes:
        image: HU, (z, y, x).
        labels: `LABEL_VALUES`, 0 elsewhere; same shape. A tumour replaces the liver around it.
        spacing: mm, (z, y, x).
        origin: Position of the first voxel in mm, (z, y, x).
    """

    image: Int16[np.ndarray, "z y x"]
    labels: UInt8[np.ndarray, "z y x"]
    spacing: Vector
    origin: Vector


def make_phantom(
    seed: int,
    *,
    spacings_in_plane: Sequence[float] = (3.6, 4.0, 4.4),
    spacings_through_plane: Sequence[float] = (4.0, 5.0),
    noise: float = 20.0,
) -> Phantom:
    """Draws a patient and scans it.

    Args:
        seed: Different seeds give different patients on different scanners.
        spacings_in_plane: mm; one is drawn for y and x.
        spacings_through_plane: mm; one is drawn for z.
        noise: Standard deviation of the noise in HU.
    """
    random = np.random.default_rng(seed)
    in_plane = float(random.choice(spacings_in_plane))
    spacing = (float(random.choice(spacings_through_plane)), in_plane, in_plane)
    extent = np.array([random.uniform(270, 300), 240.0, 330.0])  # mm
    shape = np.round(extent / spacing).astype(int)
    origin = -(shape - 1) / 2 * spacing + random.uniform(-4, 4, 3)
    axes = [start + step * np.arange(size) for start, step, size in zip(origin, spacing, shape, strict=True)]
    grid = np.meshgrid(*axes, indexing="ij", sparse=True)

    patient = _Patient(random)
    body = patient.inside(BODY, grid, jitter=0.0)
    image = np.where(body, FAT, AIR)
    image[patient.inside(_shrink(BODY, SUBCUTANEOUS_FAT_MM), grid, jitter=0.0)] = SOFT_TISSUE
    labels = np.zeros(shape, dtype=np.uint8)
    for structure in STRUCTURES:
        inside = np.zeros(shape, dtype=bool)
        for part in structure.parts:
            inside |= patient.inside(part, grid, jitter=5.0)
        if structure.name == "liver_tumour":
            inside &= labels == LABEL_VALUES["liver"]
        inside &= image != AIR
        image[inside] = structure.hounsfield + random.normal(0, 8)
        labels[inside] = LABEL_VALUES[structure.name]
    image = _blur(image) + _bias_field(axes, random) + random.normal(0, noise, shape)
    return Phantom(
        np.clip(np.round(image), -1024, 3071).astype(np.int16),
        labels,
        spacing,
        (float(origin[0]), float(origin[1]), float(origin[2])),
    )


class _Patient:
    """Size and pose of one patient; answers which voxels lie inside an ellipsoid of the atlas."""

    def __init__(self, random: np.random.Generator) -> None:
        self._random = random
        self._scale = random.uniform(0.93, 1.07, 3)
        angle = np.deg2rad(random.uniform(-6, 6))
        self._sine, self._cosine = np.sin(angle), np.cos(angle)

    def inside(self, part: Ellipsoid, grid: Sequence[npt.NDArray], jitter: float) -> Bool[np.ndarray, "z y x"]:
        """Voxels inside ``part``; ``jitter`` moves its centre by so many mm and changes its size by up to 8 %."""
        center = np.array(part.center) * self._scale
        half_axes = np.array(part.half_axes) * self._scale
        if jitter:
            center += np.clip(self._random.normal(0, jitter, 3), -2 * jitter, 2 * jitter)
            half_axes *= self._random.uniform(0.92, 1.08, 3)
        z, y, x = grid
        rotated_y = self._cosine * y - self._sine * x
        rotated_x = self._sine * y + self._cosine * x
        distances = (
            ((z - center[0]) / half_axes[0]) ** 2
            + ((rotated_y - center[1]) / half_axes[1]) ** 2
            + ((rotated_x - center[2]) / half_axes[2]) ** 2
        )
        return distances <= 1.0


def _shrink(part: Ellipsoid, millimetres: float) -> Ellipsoid:
    z, y, x = (axis - millimetres for axis in part.half_axes)
    return Ellipsoid(part.center, (z, y, x))


def _blur(image: Float[np.ndarray, "z y x"]) -> Float[np.ndarray, "z y x"]:
    """A scanner's point spread: the binomial kernel (1, 6, 1) / 8 along every axis."""
    for axis in range(3):
        padded = np.pad(image, [(1, 1) if a == axis else (0, 0) for a in range(3)], mode="edge")
        before, after = (np.take(padded, range(start, start + image.shape[axis]), axis) for start in (0, 2))
        image = (before + 6 * image + after) / 8
    return image


def _bias_field(axes: Sequence[npt.NDArray], random: np.random.Generator) -> Float[np.ndarray, "z y x"]:
    """A smooth deviation of at most a few dozen HU, as beam hardening leaves it."""
    z, y, x = (axis / np.abs(axis).max() for axis in axes)
    terms = random.normal(0, 8, 6)
    return (
        (terms[0] * z + terms[1] * z**2)[:, None, None]
        + (terms[2] * y + terms[3] * y**2)[:, None]
        + terms[4] * x
        + terms[5] * x**2
    )
