"""Makes patch, strides and median shape of a configuration fit one another."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

from nnunetv2_ext.utilities.errors import UserError

logger = logging.getLogger(__name__)

# The batch size that nnU-Net's planner starts from in 2D, and a patch edge that fits it into 8 GB.
BATCH_SIZE_2D = 12
LARGEST_PATCH_EDGE_2D = 512


def total_stride(configuration: dict[str, Any]) -> list[int]:
    """By how much the network of a configuration shrinks each axis from the patch to the bottleneck.

    Taken from ``patch_size_divisible_by`` of the configuration when it is there (networks whose arguments do not name
    their strides), else the product of the network's ``strides``.

    Returns:
        One integer per patch axis.
    """
    dimension = len(configuration["patch_size"])
    if "patch_size_divisible_by" in configuration:
        return [int(value) for value in configuration["patch_size_divisible_by"]]
    strides = configuration["architecture"]["arch_kwargs"].get("strides", [])
    per_stage = [stride if isinstance(stride, Sequence) else [stride] * dimension for stride in strides]
    return [math.prod(int(stride[axis]) for stride in per_stage) for axis in range(dimension)]


def fit_patch(
    configuration: dict[str, Any], name: str, median_shape: Sequence[float], *, shrink: bool, network_is_fixed: bool
) -> None:
    """Changes ``configuration`` in place so that its network can be trained on its patches; logs what and why.

    Args:
        configuration: A configuration with ``patch_size`` (z, y, x) or (y, x) and ``architecture``.
        name: Its name, for the log.
        median_shape: Median image shape at the configuration's spacing, in voxels, same axes as the patch.
        shrink: Whether an axis that reaches beyond the median image is shortened to it (the rest would be padding).
        network_is_fixed: Whether the network has weights already, so that strides must stay.

    Raises:
        UserError: The network cannot be made to fit.
    """
    patch = [int(edge) for edge in configuration["patch_size"]]
    stride = total_stride(configuration)
    if len(stride) != len(patch) or len(median_shape) != len(patch):
        raise UserError(
            f"Configuration {name} has a patch size {patch}, strides of {len(stride)} axes and images "
            f"of {len(median_shape)} axes; give a patch size with one number per axis."
        )
    rounded = [_round_up(edge, step) for edge, step in zip(patch, stride, strict=True)]
    if rounded != patch:
        logger.info(
            "%s: patch size %s -> %s, because the network needs multiples of its total stride %s.",
            name,
            patch,
            rounded,
            stride,
        )
    covering = [_round_up(max(1, math.ceil(edge)), step) for edge, step in zip(median_shape, stride, strict=True)]
    fitted = [min(edge, cover) for edge, cover in zip(rounded, covering, strict=True)]
    median_text = [round(float(edge)) for edge in median_shape]
    if fitted != rounded and shrink:
        logger.info(
            "%s: patch size %s -> %s, because the median image has only %s voxels and the rest would be padding.",
            name,
            rounded,
            fitted,
            median_text,
        )
        rounded = fitted
    elif fitted != rounded:
        logger.info(
            "%s: the patch size %s is kept although the median image has only %s voxels; images will be padded.",
            name,
            rounded,
            median_text,
        )
    configuration["patch_size"] = rounded
    _avoid_single_voxel_bottleneck(configuration, name, network_is_fixed)
    arguments = configuration["architecture"]["arch_kwargs"]
    if "input_shape" in arguments:
        # Primus has an embedding for each place of the patch.
        arguments["input_shape"] = list(configuration["patch_size"])


def derive_2d(configuration: dict[str, Any], spacing: Sequence[float], median_shape: Sequence[float]) -> dict[str, Any]:
    """A ``2d`` configuration made from a 3D one: the last two axes of its network, with nnU-Net's 2D batch size.

    Args:
        configuration: A resolved 3D configuration.
        spacing: Target spacing (y, x) in mm.
        median_shape: Median image shape (y, x) at that spacing.

    Returns:
        A new configuration with a patch that covers the median image up to 512 voxels an edge.

    Raises:
        UserError: The network's arguments do not say how to make it two-dimensional.
    """
    flat = deepcopy(configuration)
    architecture = flat["architecture"]
    arguments = architecture["arch_kwargs"]
    if not isinstance(arguments.get("strides"), list) or not all(isinstance(s, list) for s in arguments["strides"]):
        raise UserError(
            f"The network {architecture['network_class_name']} of this template is three-dimensional and cannot be "
            "turned into a 2D one; use a template with a configuration '2d' or one that states strides per axis."
        )
    for key in ("strides", "kernel_sizes"):
        if key in arguments:
            arguments[key] = [list(size)[-2:] for size in arguments[key]]
    for key in architecture.get("_kw_requires_import", []):
        if isinstance(arguments.get(key), str):
            arguments[key] = arguments[key].replace("3d", "2d")
    flat.pop("patch_size_divisible_by", None)
    flat["spacing"] = [float(value) for value in spacing]
    flat["patch_size"] = [1, 1]
    steps = total_stride(flat)
    flat["patch_size"] = [
        min(_round_up(math.ceil(edge), step), max(step, LARGEST_PATCH_EDGE_2D // step * step))
        for edge, step in zip(median_shape, steps, strict=True)
    ]
    flat["batch_size"] = BATCH_SIZE_2D
    flat["batch_dice"] = True
    return flat


def _avoid_single_voxel_bottleneck(configuration: dict[str, Any], name: str, network_is_fixed: bool) -> None:
    # Instance normalisation of a single voxel has no variance, and torch refuses it during training.
    patch, stride = configuration["patch_size"], total_stride(configuration)
    if any(edge > step for edge, step in zip(patch, stride, strict=True)) or max(stride) == 1:
        return
    strides = configuration["architecture"]["arch_kwargs"].get("strides")
    if network_is_fixed or not strides or not all(isinstance(s, list) for s in strides):
        doubled = [2 * edge for edge in patch]
        configuration["patch_size"] = doubled
        logger.info(
            "%s: patch size %s -> %s, because the network would shrink it to a single voxel, which instance "
            "normalisation cannot take.",
            name,
            patch,
            doubled,
        )
        return
    last = max(index for index, stage in enumerate(strides) if max(stage) > 1)
    configuration["architecture"]["arch_kwargs"]["strides"] = [
        [1] * len(patch) if index == last else stage for index, stage in enumerate(strides)
    ]
    logger.info(
        "%s: stride of stage %d %s -> %s, because the patch %s would shrink to a single voxel, which instance "
        "normalisation cannot take.",
        name,
        last,
        strides[last],
        [1] * len(patch),
        patch,
    )


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step
