"""What every way of preparing images, and of putting label maps back, has in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float32, Shaped

from nnunetv2_ext.images.reading import Scan


@dataclass(frozen=True)
class Prepared:
    """A case as the network sees it, and what is needed to go back.

    Attributes:
        data: ``(channels, z, y, x)`` at the network's spacing, axes in the order of the plans.
        spacing: Spacing of ``data`` along its axes, mm.
        image_shape: Shape that the label map of ``data`` is resampled to.
        image_spacing: Spacing of that shape along its axes, mm.
        content: Where there is more than air or padding, ``(z, y, x)``; None where nobody asked.
        placement: What the preprocessing itself needs to put the label map back, as a dataclass of its own.
    """

    data: Float32[torch.Tensor, "channels z y x"]
    spacing: tuple[float, ...]
    image_shape: tuple[int, int, int]
    image_spacing: tuple[float, ...]
    placement: Any
    content: Bool[torch.Tensor, "z y x"] | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of ``data``, without channels."""
        return (self.data.shape[1], self.data.shape[2], self.data.shape[3])


class Preprocessing(Protocol):
    """One way from an image to the network and back.

    Attributes:
        orientation: What x, y and z of scans are turned to for the network, such as ``"RAS"``; None where they are
            taken in the order of their files. Label maps are turned back.
    """

    orientation: str | None

    def prepare(self, scan: Scan, previous_stage: Scan | None = None) -> Prepared:
        """Makes the network's input; ``previous_stage`` is the label map that a cascade's second stage reads."""
        ...

    def restore(self, labels: Shaped[np.ndarray, "z y x"], prepared: Prepared) -> Shaped[np.ndarray, "z y x"]:
        """Puts a map of shape ``prepared.image_shape`` on the grid of the image; what was cropped away is 0."""
        ...
