"""Template or pretrained model's plans + dataset -> plans for that dataset."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import numpy as np

from nnunetv2_ext.checkpoints.plans import resolve_configuration
from nnunetv2_ext.checkpoints.plans_v1 import CONFIGURATION_DEFAULTS
from nnunetv2_ext.experiment_planning.fit import derive_2d, fit_patch
from nnunetv2_ext.experiment_planning.normalization import CT_SCHEME, fit_normalization, intensity_statistics
from nnunetv2_ext.experiment_planning.templates import check_template, is_template
from nnunetv2_ext.utilities.errors import UserError

logger = logging.getLogger(__name__)

# What a template may leave out; for a 3d_fullres without 3d_lowres nnU-Net's planner takes the Dice of each sample.
_DEFAULTS: dict[str, Any] = {**CONFIGURATION_DEFAULTS, "batch_dice": False}


def plans_for_dataset(
    template_or_plans: dict[str, Any],
    dataset_json: dict[str, Any],
    fingerprint: dict[str, Any],
    *,
    name: str,
    dataset_name: str,
    image_reader_writer: str | None = None,
    configurations: Sequence[str] | None = None,
    spacing: Sequence[float] | None = None,
    patch_size: Sequence[int] | None = None,
    batch_size: int | None = None,
    to_dataset: bool = False,
) -> dict[str, Any]:
    """Adapts a plan template, or the plans of a pretrained model, to a dataset.

    The plans of a pretrained model keep their patch size, spacing, strides, normalisation and (for CT) intensity
    statistics, because the weights were trained with them. A template's patch is shortened where it reaches beyond the
    median image, and its strides are relaxed where the bottleneck would be a single voxel. Every change is logged.

    Args:
        template_or_plans: What `load_template` returns, or a trained model's ``plans.json``.
        dataset_json: The dataset's ``dataset.json``.
        fingerprint: The dataset's ``dataset_fingerprint.json``; spacings in mm and shapes, both (z, y, x).
        name: Name of the new plans, nnU-Net's plans identifier.
        dataset_name: ``DatasetXXX_Name``.
        image_reader_writer: nnU-Net's reader class; found from the file ending of ``dataset_json`` by default.
        configurations: Which to plan: by default all that ``template_or_plans`` has, or ``2d`` for 2D images.
            ``2d`` can be asked for even if only 3D ones are there.
        spacing: Target spacing (z, y, x) in mm instead of the template's; (y, x) for 2D configurations.
        patch_size: Patch size in voxels instead of the template's, same axes.
        batch_size: Batch size instead of the template's.
        to_dataset: Whether spacing, normalisation and intensity statistics are the dataset's own, and the patch no
            larger than its median image, although the network has weights already.

    Returns:
        Plans that stock nnU-Net reads.

    Raises:
        UserError: The template does not fit the dataset, or an override makes no sense.
    """
    check_template(template_or_plans, "the template")
    from_template = is_template(template_or_plans)
    if to_dataset:
        template_or_plans = _left_to_dataset(template_or_plans)
    spacings = np.asarray(fingerprint["spacings"], dtype=float)
    shapes = np.asarray(fingerprint["shapes_after_crop"], dtype=float)
    flat_images = bool(np.median(shapes[:, 0]) == 1)
    forward = [int(axis) for axis in template_or_plans.get("transpose_forward", (0, 1, 2))]
    if flat_images and forward[0] != 0:
        logger.info("The images are two-dimensional: their axes are not transposed.")
        forward = [0, 1, 2]
    images = _Images(spacings[:, forward], shapes[:, forward])

    selected = _select_configurations(template_or_plans, configurations, flat_images)
    planned: dict[str, dict[str, Any]] = {}
    for configuration_name in selected:
        entry = template_or_plans["configurations"].get(configuration_name)
        if entry and entry.get("inherits_from") in selected and "patch_size" not in entry:
            planned[configuration_name] = deepcopy(entry)
            continue
        configuration = _base_configuration(template_or_plans, configuration_name, images, flat_images)
        _override(configuration, configuration_name, forward, spacing, patch_size, batch_size)
        fit_normalization(configuration, configuration_name, dataset_json, fingerprint)
        median_shape = images.median_shape(configuration["spacing"])
        fit_patch(
            configuration,
            configuration_name,
            median_shape,
            shrink=(from_template or to_dataset) and patch_size is None,
            network_is_fixed=not from_template,
        )
        configuration["data_identifier"] = f"{name}_{configuration_name}"
        configuration["median_image_size_in_voxels"] = median_shape
        planned[configuration_name] = configuration

    for configuration in planned.values():
        stages = configuration.get("next_stage") or []
        if not set([stages] if isinstance(stages, str) else stages) <= planned.keys():
            del configuration["next_stage"]
    schemes = next(c["normalization_schemes"] for c in planned.values() if "normalization_schemes" in c)
    brings_statistics = bool(template_or_plans.get("foreground_intensity_properties_per_channel"))
    if CT_SCHEME in schemes and not brings_statistics:
        logger.info("CT intensities are scaled with the statistics of the dataset's own fingerprint.")
    return {
        "dataset_name": dataset_name,
        "plans_name": name,
        "original_median_spacing_after_transp": [float(v) for v in np.median(images.spacings, 0)],
        "original_median_shape_after_transp": [round(float(v)) for v in np.median(images.shapes, 0)],
        "image_reader_writer": image_reader_writer or reader_writer_of(dataset_json),
        "transpose_forward": forward,
        "transpose_backward": [forward.index(axis) for axis in range(3)],
        "configurations": planned,
        "experiment_planner_used": template_or_plans.get("experiment_planner_used", "ExperimentPlanner"),
        "label_manager": template_or_plans.get("label_manager", "LabelManager"),
        "foreground_intensity_properties_per_channel": intensity_statistics(template_or_plans, schemes, fingerprint),
    }


def _left_to_dataset(plans: dict[str, Any]) -> dict[str, Any]:
    """Plans without what the dataset is to decide; a channel that is not CT gets nnU-Net's scheme for its name."""
    plans = {**deepcopy(plans), "foreground_intensity_properties_per_channel": {}}
    for configuration in plans["configurations"].values():
        open_entries = {"spacing": None, "normalization_schemes": [CT_SCHEME], "use_mask_for_norm": [False]}
        configuration |= {key: value for key, value in open_entries.items() if key in configuration}
    return plans


def reader_writer_of(dataset_json: dict[str, Any], example_image: str | None = None) -> str:
    """Name of nnU-Net's reader/writer class for the images of a dataset.

    Raises:
        UserError: nnU-Net has no reader for the file ending.
    """
    from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json

    try:
        return determine_reader_writer_from_dataset_json(dataset_json, example_image, verbose=False).__name__
    except RuntimeError as error:
        raise UserError(
            f"nnU-Net has no reader for files ending in {dataset_json['file_ending']!r}; convert the images, for "
            "example to .nii.gz."
        ) from error


class _Images:
    """Spacings (mm) and shapes (voxels) of a dataset's images, axes transposed as the plans say; both (cases, 3)."""

    def __init__(self, spacings: np.ndarray, shapes: np.ndarray) -> None:
        self.spacings = spacings
        self.shapes = shapes

    def median_shape(self, spacing: Sequence[float]) -> list[float]:
        """Median shape after resampling to ``spacing``; two numbers give the last two axes."""
        axes = slice(3 - len(spacing), None)
        resampled = np.round(self.shapes[:, axes] * self.spacings[:, axes] / np.asarray(spacing, dtype=float))
        return [float(edge) for edge in np.median(resampled, axis=0)]


def check_configurations(plans: dict[str, Any], requested: Sequence[str]) -> None:
    """Checks that plans have the configurations that are asked for, or that they can be made from them.

    Raises:
        UserError: A configuration does not exist.
    """
    available = list(plans["configurations"])
    for name in requested:
        if name not in available and name != "2d":
            raise UserError(f"Expected configurations among {', '.join([*available, '2d'])}, but got {name!r}.")


def _select_configurations(plans: dict[str, Any], requested: Sequence[str] | None, flat_images: bool) -> list[str]:
    available = list(plans["configurations"])
    if requested is None:
        return ["2d"] if flat_images else available
    check_configurations(plans, requested)
    for name in requested:
        if flat_images and name != "2d":
            raise UserError(f"The images are two-dimensional, but configuration {name} is not; use -c 2d.")
    selected = list(dict.fromkeys(requested))
    for name in selected:
        previous = resolve_configuration(plans, name).get("previous_stage") if name in available else None
        if previous is not None and previous not in selected:
            if previous not in available:
                raise UserError(f"{name} goes on from {previous}, which the plans do not have; choose another with -c.")
            logger.info("%s is planned as well, from whose predictions %s goes on.", previous, name)
            selected.append(previous)
    return selected


def _base_configuration(plans: dict[str, Any], name: str, images: _Images, flat_images: bool) -> dict[str, Any]:
    if name in plans["configurations"]:
        configuration = {**deepcopy(_DEFAULTS), **deepcopy(resolve_configuration(plans, name))}
    else:
        parent = next((c for c in ("3d_fullres", *plans["configurations"]) if c in plans["configurations"]), name)
        resolved = {**deepcopy(_DEFAULTS), **resolve_configuration(plans, parent)}
        # A template's millimetres mean nothing for 2D images, whose spacing is often just 1.
        spacing = np.median(images.spacings, 0)[1:] if flat_images else _spacing(resolved, images)[1:]
        configuration = derive_2d(resolved, spacing, images.median_shape(spacing))
        logger.info(
            "2d: made from %s: spacing %s, patch size %s, batch size %d.",
            parent,
            configuration["spacing"],
            configuration["patch_size"],
            configuration["batch_size"],
        )
    configuration["spacing"] = _spacing(configuration, images)
    return configuration


def _spacing(configuration: dict[str, Any], images: _Images) -> list[float]:
    if configuration.get("spacing"):
        return [float(value) for value in configuration["spacing"]]
    median = np.median(images.spacings, axis=0)[3 - len(configuration["patch_size"]) :]
    logger.info("The template leaves the spacing open: the dataset's median %s mm is used.", median.tolist())
    return [float(value) for value in median]


def _override(
    configuration: dict[str, Any],
    name: str,
    forward: Sequence[int],
    spacing: Sequence[float] | None,
    patch_size: Sequence[int] | None,
    batch_size: int | None,
) -> None:
    dimension = len(configuration["patch_size"])
    for key, values in (("spacing", spacing), ("patch_size", patch_size)):
        if values is None:
            continue
        if len(values) != dimension or any(value <= 0 for value in values):
            raise UserError(
                f"Expected {dimension} positive numbers as {key} of configuration {name}, but got "
                f"{' '.join(str(value) for value in values)}."
            )
        ordered = [values[axis] for axis in forward] if dimension == 3 else list(values)
        logger.info("%s: %s %s -> %s, as asked for.", name, key, configuration[key], ordered)
        configuration[key] = [float(v) for v in ordered] if key == "spacing" else [int(v) for v in ordered]
    if batch_size is not None:
        if batch_size < 1:
            raise UserError(f"Expected a batch size of at least 1, but got {batch_size}.")
        logger.info("%s: batch_size %s -> %s, as asked for.", name, configuration["batch_size"], batch_size)
        configuration["batch_size"] = batch_size
