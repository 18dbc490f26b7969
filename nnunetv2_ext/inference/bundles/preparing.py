"""Orientation, spacing and intensities of an image as a MONAI bundle wants them, and the way back."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped

from nnunetv2_ext.images.reading import Scan
from nnunetv2_ext.inference.bundles.profile import BundleProfile
from nnunetv2_ext.inference.preparing.protocol import Prepared
from nnunetv2_ext.inference.windows.plan import Slices, padding
from nnunetv2_ext.utilities.errors import UserError


@dataclass(frozen=True)
class BundlePlacement:
    """How MONAI placed an image.

    Attributes:
        operations: What its transforms did, to be undone.
        meta: What they remember of the image.
        inside: Where the image lies within its padding.
    """

    operations: Any
    meta: Any
    inside: Slices


class BundlePreprocessing:
    """Orientation, spacing and intensities by MONAI's transforms.

    Args:
        profile: What the bundle does.
    """

    def __init__(self, profile: BundleProfile) -> None:
        from monai.transforms import Compose, Orientation, Spacing

        self._profile = profile
        self.orientation: str | None = profile.orientation
        turn = Orientation(axcodes=profile.orientation, labels=(("L", "R"), ("P", "A"), ("I", "S")))
        resample = [Spacing(pixdim=profile.spacing[::-1], mode="bilinear")] if profile.spacing is not None else []
        self._spatial = Compose([turn, *resample])
        self._intensity = Compose([_intensity_rule(rule) for rule in profile.intensity])

    def prepare(self, scan: Scan, previous_stage: Scan | None = None) -> Prepared:
        """See `Preprocessing`.

        Raises:
            UserError: A previous stage is given; bundles have none.
        """
        from monai.data import MetaTensor

        if previous_stage is not None:
            raise UserError("Expected no label map of a previous stage: a MONAI bundle has one stage.")
        image = torch.from_numpy(np.ascontiguousarray(_turn(scan.channels))).float()
        # The header's own numbers where there is one: MONAI leaves images alone whose spacing is right to the last
        # digit, and interpolates all others, after which no voxel is exactly 0 any more.
        affine = torch.from_numpy(np.asarray(scan.grid.header_affine, dtype=np.float64))
        placed = self._spatial(MetaTensor(image, affine=affine))
        data = self._intensity(placed).as_tensor().permute(0, 3, 2, 1)
        padded, inside = padding(data.shape[1:], self._profile.window_size)
        if padded != tuple(data.shape[1:]):
            edges = [edge for part, size in zip(inside, padded, strict=True) for edge in (size - part.stop, part.start)]
            data = torch.nn.functional.pad(data[None], edges[::-1], mode=self._profile.padding)[0]
        spacing = tuple(float(edge) for edge in placed.pixdim[:3])[::-1]
        return Prepared(
            data=data.contiguous(),
            spacing=self._profile.spacing or spacing,
            image_shape=padded,
            image_spacing=self._profile.spacing or spacing,
            placement=BundlePlacement(deepcopy(placed.applied_operations), deepcopy(placed.meta), inside),
        )

    def restore(self, labels: Shaped[np.ndarray, "z y x"], prepared: Prepared) -> Shaped[np.ndarray, "z y x"]:
        """See `Preprocessing`; the nearest voxel's label, unless the labels are on the image's grid already."""
        if self._profile.inversion == "linear_probabilities":
            return labels
        inside = np.ascontiguousarray(labels[prepared.placement.inside])
        # Labels are whole numbers below 2^24, which float32 holds exactly.
        turned = self.invert(torch.from_numpy(inside.astype(np.float32)), prepared, "nearest")
        return turned.numpy().round().astype(labels.dtype)

    def invert(
        self, volume: Float[torch.Tensor, "z y x"], prepared: Prepared, mode: str | None = None
    ) -> Float[torch.Tensor, "z y x"]:
        """Brings a volume of the network's grid to the grid of the image.

        Args:
            volume: Without padding.
            prepared: The case.
            mode: Interpolation instead of the one that the image was resampled with.
        """
        from monai.data import MetaTensor
        from monai.transforms.utils import convert_applied_interp_mode

        operations = prepared.placement.operations
        if mode is not None:
            operations = convert_applied_interp_mode(operations, mode=mode)
        placed = MetaTensor(volume.permute(2, 1, 0)[None], meta=deepcopy(prepared.placement.meta))
        placed.applied_operations = deepcopy(operations)
        return self._spatial.inverse(placed).as_tensor()[0].permute(2, 1, 0).contiguous()


def _intensity_rule(rule: Any) -> Any:
    from monai.transforms import NormalizeIntensity, ScaleIntensity, ScaleIntensityRange

    if rule["name"] == "normalize_nonzero":
        return NormalizeIntensity(nonzero=True)
    if rule["name"] == "scale":
        return ScaleIntensity(minv=rule["minimum"], maxv=rule["maximum"])
    (a_min, a_max), (b_min, b_max) = rule["from"], rule["to"]
    return ScaleIntensityRange(a_min, a_max, b_min, b_max, clip=True)


def _turn(array: Shaped[np.ndarray, "channels z y x"]) -> Shaped[np.ndarray, "channels x y z"]:
    return array.transpose(0, 3, 2, 1)
