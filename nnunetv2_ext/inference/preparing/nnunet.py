"""From an image to what the network sees, and from its label map back to the image's grid.

This is nnU-Net's own way, one `Preprocessing`. Models that were trained elsewhere bring theirs (another orientation,
another intensity rule) as another object with the same methods.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float32, Shaped
from nnunetv2.utilities.label_handling.label_handling import convert_labelmap_to_one_hot
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager

from nnunetv2_ext.images.geometry import AxisTurn
from nnunetv2_ext.images.reading import Scan
from nnunetv2_ext.inference.model.folder import Model
from nnunetv2_ext.inference.modes import Mode
from nnunetv2_ext.inference.preparing.protocol import Prepared
from nnunetv2_ext.inference.preparing.splines import LeanConfiguration
from nnunetv2_ext.utilities.errors import UserError


@dataclass(frozen=True)
class Placement:
    """Where what the network saw lies in the image.

    Attributes:
        shape: Of the whole image, axes in the order of the plans.
        box: What the preprocessor kept of it.
        properties: What the preprocessor remembers.
        turn: How the image was turned before.
    """

    shape: tuple[int, ...]
    box: tuple[slice, ...]
    properties: Mapping[str, Any]
    turn: AxisTurn | None


class NnunetPreprocessing:
    """nnU-Net's preprocessor (transpose, crop to nonzero, normalise, resample) as the plans configure it.

    Where the plans resample by splines, `splines` computes the same values in less memory.

    Args:
        model: The model whose plans apply.
        mode: Whether to resample the image linearly (torch) instead of by cubic splines (SciPy), which is much faster
            and slightly softer; and whether to tell where there is more than air or padding.
        turning: Turn scans as the images of the training lay, where the model records it. Where nnU-Net's reader of
            the plans turns images itself, they are turned so in any case.
    """

    #: Highest intensity of air in CT, HU.
    AIR_HU = -900.0

    def __init__(self, model: Model, mode: Mode, *, turning: bool = True) -> None:
        self._model = model
        self._find_content = mode.skip_air
        self._reader_turns = _orientation_of_reader(model) is not None
        self.orientation = orientation_of(model) if turning else _orientation_of_reader(model)
        changes: dict[str, Any] = {}
        if mode.linear_image:
            separate_z = model.configuration.configuration["resampling_fn_data_kwargs"].get("force_separate_z")
            changes = {
                "resampling_fn_data": "resample_torch_fornnunet",
                "resampling_fn_data_kwargs": {
                    "is_seg": False,
                    "force_separate_z": separate_z,
                    "num_threads": torch.get_num_threads(),
                },
            }
        self._configuration = _changed(model.configuration, changes)
        # Without a previous stage the preprocessor resamples a mask that nobody reads: that is left out.
        self._without_mask = _changed(
            model.configuration, {**changes, "resampling_fn_seg": "no_resampling_hack", "resampling_fn_seg_kwargs": {}}
        )

    def prepare(self, scan: Scan, previous_stage: Scan | None = None) -> Prepared:
        """See `Preprocessing`.

        Raises:
            UserError: The previous stage's label map lies on another grid.
        """
        turn = self._turn_of(scan)
        channels, spacing = scan.channels, scan.spacing
        segmentation = None
        if previous_stage is not None:
            segmentation = previous_stage.channels
            if difference := scan.grid.difference(previous_stage.grid):
                raise UserError(
                    f"Expected the label map of the previous stage on the grid of {scan.identifier}, but they have "
                    f"{difference}; predict the previous stage of this very image."
                )
        if turn is not None:
            # In the order of memory, so that sums over voxels do not depend on how the file lay.
            channels, spacing = np.ascontiguousarray(turn.forward(channels)), turn.reorder(spacing)
            segmentation = turn.forward(segmentation) if segmentation is not None else None
        data, properties = self.run("run_case_npy", channels, segmentation, {"spacing": list(spacing)})
        return self.of_preprocessed(torch.from_numpy(data), properties, turn)

    def _turn_of(self, scan: Scan) -> AxisTurn | None:
        if self.orientation is None or not (self._reader_turns or scan.grid.orientation):
            return None
        turn = AxisTurn.to(self.orientation, scan.grid)
        return turn if self._reader_turns or not turn.changes_nothing else None

    def run(
        self, method: str, image: Any, previous_stage: Any, *properties: dict[str, Any]
    ) -> tuple[Float32[np.ndarray, "channels z y x"], dict[str, Any]]:
        """Calls nnU-Net's preprocessor.

        Args:
            method: Its ``run_case`` or ``run_case_npy``.
            image: What the method takes: files, or an array ``(channels, z, y, x)``.
            previous_stage: The label map of the previous stage likewise, which is stacked on the image; or None.
            *properties: With ``run_case_npy``: what is known of the image.

        Returns:
            The network's input, and what the preprocessor remembers of the image.
        """
        model = self._model
        configuration = self._without_mask if previous_stage is None else self._configuration
        preprocessor = configuration.preprocessor_class(verbose=False)
        data, labels, remembered = getattr(preprocessor, method)(
            image, previous_stage, *properties, model.plans, configuration, model.dataset_json
        )
        if previous_stage is not None:
            data = np.vstack((data, convert_labelmap_to_one_hot(labels[0], model.labels.foreground_labels, data.dtype)))
        return np.ascontiguousarray(data, dtype=np.float32), remembered

    def of_preprocessed(
        self, data: Float32[torch.Tensor, "channels z y x"], properties: Mapping[str, Any], turn: AxisTurn | None = None
    ) -> Prepared:
        """What nnU-Net's preprocessor made of an image, ready for the network and for the way back.

        Args:
            data: The network's input.
            properties: What the preprocessor remembers.
            turn: How the image was turned before.
        """
        model = self._model
        image_spacing = tuple(float(properties["spacing"][axis]) for axis in model.plans.transpose_forward)
        network_spacing = tuple(float(value) for value in self._configuration.spacing)
        if len(network_spacing) == 2:
            network_spacing = (image_spacing[0], *network_spacing)
        shape = properties["shape_after_cropping_and_before_resampling"]
        return Prepared(
            data=data,
            spacing=network_spacing,
            image_shape=(int(shape[0]), int(shape[1]), int(shape[2])),
            image_spacing=image_spacing,
            content=self._content(data.numpy(), model.image_channels) if self._find_content else None,
            placement=Placement(
                properties["shape_before_cropping"],
                tuple(slice(*edges) for edges in properties["bbox_used_for_cropping"]),
                properties,
                turn,
            ),
        )

    def restore(self, labels: Shaped[np.ndarray, "z y x"], prepared: Prepared) -> Shaped[np.ndarray, "z y x"]:
        """See `Preprocessing`."""
        whole, turn = self.uncrop(labels, prepared), prepared.placement.turn
        return np.ascontiguousarray(turn.back(whole) if turn is not None and self._reader_turns else whole)

    def uncrop(self, labels: Shaped[np.ndarray, "z y x"], prepared: Prepared) -> Shaped[np.ndarray, "z y x"]:
        """As `restore`, but turned as nnU-Net's reader of the plans turns images: so nnU-Net keeps probabilities."""
        placement: Placement = prepared.placement
        whole = np.zeros(placement.shape, dtype=labels.dtype)
        whole[placement.box] = labels
        whole = whole.transpose(self._model.plans.transpose_backward)
        return whole if placement.turn is None or self._reader_turns else placement.turn.back(whole)

    def stock_properties(self, scan: Scan, prepared: Prepared) -> dict[str, Any]:
        """What nnU-Net's readers and preprocessor remember of an image, for its own tools."""
        grid, placement = scan.grid, prepared.placement
        affines, remembered = {"original_affine": grid.header_affine}, placement.properties
        if placement.turn is not None and self._reader_turns:
            affines["reoriented_affine"] = placement.turn.grid(grid).affine
        elif placement.turn is not None:
            # What the preprocessor remembers is said of the turned image, which nnU-Net does not know.
            remembered = {"spacing": list(scan.spacing)}
        return {
            "sitk_stuff": {"spacing": grid.spacing, "origin": grid.origin, "direction": grid.direction},
            "nibabel_stuff": affines,
            **remembered,
        }

    def _content(self, data: Shaped[np.ndarray, "channels z y x"], channels: int) -> Bool[torch.Tensor, "z y x"]:
        """Where any image channel holds more than air (up to -900 HU in CT) or padding.

        Normalised CT is clipped to the intensities of the training's foreground. Where even the lowest of these lies
        above -900 HU, all below it looks the same to the network, and counts as air here.
        """
        content = np.zeros(data.shape[1:], dtype=bool)
        for channel in range(channels):
            if self._configuration.normalization_schemes[channel] == "CTNormalization":
                intensity = self._model.plans.foreground_intensity_properties_per_channel[str(channel)]
                air = max(self.AIR_HU, float(intensity["percentile_00_5"]))
                level = (air - float(intensity["mean"])) / max(float(intensity["std"]), 1e-8)
                content |= data[channel] > level + 1e-5
            elif self._configuration.use_mask_for_norm[channel]:
                # What lies outside the mask stays exactly zero through a masked normalisation.
                content |= data[channel] != 0
            else:
                content |= data[channel] > data[channel].min()
        return torch.from_numpy(content)


def _changed(configuration: ConfigurationManager, changes: dict[str, Any]) -> ConfigurationManager:
    return LeanConfiguration(deepcopy(configuration.configuration) | changes)


def orientation_of(model: Model) -> str | None:
    """What x, y and z of images run towards for the network, such as ``"RAS"``; None where that is not known."""
    return _orientation_of_reader(model) or model.orientation


def _orientation_of_reader(model: Model) -> str | None:
    """What nnU-Net's reader of the plans turns images to; None where it leaves axes alone."""
    reader = model.plans.plans["image_reader_writer"]
    return "RAS" if reader.endswith("WithReorient") else None
