"""nnU-Net v1 plans as nnU-Net v2 plans."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from nnunetv2_ext.utilities.errors import UserError

_SCHEMES = {"CT": "CTNormalization", "nonCT": "ZScoreNormalization", "noNorm": "NoNormalization"}
_STATISTICS = {
    "mean": "mean",
    "sd": "std",
    "median": "median",
    "mn": "min",
    "mx": "max",
    "percentile_00_5": "percentile_00_5",
    "percentile_99_5": "percentile_99_5",
}
_RESAMPLING = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}

#: Values of nnU-Net's default planner for what neither nnU-Net v1 plans nor plan templates state.
CONFIGURATION_DEFAULTS: dict[str, Any] = {
    "preprocessor_name": "DefaultPreprocessor",
    "resampling_fn_data": "resample_data_or_seg_to_shape",
    "resampling_fn_seg": "resample_data_or_seg_to_shape",
    "resampling_fn_data_kwargs": _RESAMPLING,
    "resampling_fn_seg_kwargs": {**_RESAMPLING, "is_seg": True, "order": 1},
    "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
    "resampling_fn_probabilities_kwargs": {**_RESAMPLING, "order": 1},
    "batch_dice": True,
}


def normalization_from_v1(plans: Mapping[str, Any]) -> dict[str, Any]:
    """Normalisation entries of v2 plans.

    Returns:
        ``normalization_schemes`` and ``use_mask_for_norm`` per channel, and
        ``foreground_intensity_properties_per_channel`` (HU for CT; empty where the v1 plans have none).

    Raises:
        UserError: A scheme has no counterpart in nnU-Net v2.
    """
    schemes = plans["normalization_schemes"]
    unknown = sorted({str(scheme) for scheme in schemes.values()} - set(_SCHEMES))
    if unknown:
        raise UserError(
            f"Expected normalisation schemes {', '.join(_SCHEMES)} in the nnU-Net v1 plans, but found "
            f"{', '.join(unknown)}, which nnU-Net v2 does not have; give v2 plans with --plans."
        )
    use_mask = plans.get("use_mask_for_norm") or {}
    properties = (plans.get("dataset_properties") or {}).get("intensityproperties") or {}
    return {
        "normalization_schemes": [_SCHEMES[schemes[channel]] for channel in sorted(schemes)],
        "use_mask_for_norm": [bool(use_mask.get(channel, False)) for channel in sorted(schemes)],
        "foreground_intensity_properties_per_channel": {
            str(channel): {new: float(values[old]) for old, new in _STATISTICS.items() if values.get(old) is not None}
            for channel, values in properties.items()
        },
    }


def plans_from_v1(
    plans: Mapping[str, Any], stage: int | None, architecture: Mapping[str, Any]
) -> tuple[dict[str, Any], str]:
    """Turns nnU-Net v1 plans into v2 plans with one configuration.

    Args:
        plans: The v1 plans (``plans`` of a ``.model.pkl``, or a ``plans.pkl``).
        stage: Stage of the checkpoint; the last one by default.
        architecture: The ``architecture`` entry of the configuration.

    Returns:
        The plans, without dataset name, and the name of the configuration: ``2d``, ``3d_fullres``, or ``3d_lowres``
        for the first stage of two.
    """
    per_stage = plans["plans_per_stage"]
    stage = max(per_stage) if stage is None else stage
    planned = per_stage[stage]
    patch_size = _integers(planned["patch_size"])
    # nnU-Net v1 states spacings of 2D networks with the axis across slices, v2 without it.
    axes = slice(3 - len(patch_size), None)
    spacing = np.asarray(planned["current_spacing"], dtype=float)
    original_spacing = np.asarray(planned.get("original_spacing", spacing), dtype=float)
    median_shape = np.asarray(planned["median_patient_size_in_voxels"], dtype=float)
    if not spacing.shape == original_spacing.shape == median_shape.shape == (3,):
        raise UserError(
            "Expected three numbers each as spacing and median size in the plans of nnU-Net v1, but found "
            f"{spacing.size}, {original_spacing.size} and {median_shape.size}; get the file again."
        )
    original_shape = np.round(median_shape * spacing / original_spacing)
    configuration = _configuration_name(len(patch_size), is_last=stage == max(per_stage))
    normalization = normalization_from_v1(plans)
    statistics = normalization.pop("foreground_intensity_properties_per_channel")
    forward = _integers(plans.get("transpose_forward", (0, 1, 2)))
    return {
        "dataset_name": "",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": original_spacing.tolist(),
        "original_median_shape_after_transp": [int(edge) for edge in original_shape],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": forward,
        "transpose_backward": _integers(plans.get("transpose_backward", np.argsort(forward))),
        "configurations": {
            configuration: {
                **CONFIGURATION_DEFAULTS,
                "data_identifier": f"nnUNetPlans_{configuration}",
                "batch_size": int(planned["batch_size"]),
                "patch_size": patch_size,
                "median_image_size_in_voxels": median_shape[axes].tolist(),
                "spacing": spacing[axes].tolist(),
                **normalization,
                "architecture": dict(architecture),
            }
        },
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": statistics,
    }, configuration


def _configuration_name(dimensions: int, is_last: bool) -> str:
    if dimensions == 2:
        return "2d"
    return "3d_fullres" if is_last else "3d_lowres"


def _integers(values: Any) -> list[int]:
    return [int(value) for value in values]
