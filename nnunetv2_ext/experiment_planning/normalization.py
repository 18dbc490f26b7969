"""Which normalisation scheme and which intensity statistics each channel of a dataset gets."""

from __future__ import annotations

import logging
from typing import Any

from nnunetv2_ext.labels.dataset_json import image_channels
from nnunetv2_ext.utilities.errors import UserError

logger = logging.getLogger(__name__)

CT_SCHEME = "CTNormalization"

# nnU-Net 2.8's `channel_name_to_normalization_mapping`; a test compares the two. Importing it would import torch.
SCHEME_OF_CHANNEL_NAME = {
    "ct": CT_SCHEME,
    "nonorm": "NoNormalization",
    "zscore": "ZScoreNormalization",
    "rescale_to_0_1": "RescaleTo01Normalization",
    "rgb_to_0_1": "RGBTo01Normalization",
}
# Below this share of nonzero voxels nnU-Net normalises inside the nonzero mask only.
_NONZERO_MASK_THRESHOLD = 0.75


def fit_normalization(
    configuration: dict[str, Any], name: str, dataset_json: dict[str, Any], fingerprint: dict[str, Any]
) -> None:
    """Gives every channel of the dataset a normalisation scheme; changes ``configuration`` in place and logs why.

    A single scheme applies to all channels. The CT scheme clips to an absolute scale that only CT has, so a channel
    that is not named "CT" gets the scheme that nnU-Net chooses for its name instead.

    Raises:
        UserError: The configuration has different schemes for another number of channels.
    """
    channels = image_channels(dataset_json)
    schemes = _one_per_channel(configuration["normalization_schemes"], len(channels), name)
    use_mask = _one_per_channel(configuration.get("use_mask_for_norm", [False]), len(channels), name)
    for index, channel in enumerate(channels):
        if schemes[index] != CT_SCHEME or channel.casefold() == "ct":
            continue
        schemes[index] = SCHEME_OF_CHANNEL_NAME.get(channel.casefold(), "ZScoreNormalization")
        use_mask[index] = (
            schemes[index] == "ZScoreNormalization"
            and float(fingerprint["median_relative_size_after_cropping"]) < _NONZERO_MASK_THRESHOLD
        )
        logger.warning(
            "%s: channel %d is %r, not CT: %s instead of %s. If it is CT, name it 'CT' in dataset.json.",
            name,
            index,
            channel,
            schemes[index],
            CT_SCHEME,
        )
    configuration["normalization_schemes"] = schemes
    configuration["use_mask_for_norm"] = use_mask


def intensity_statistics(
    plans: dict[str, Any], schemes: list[str], fingerprint: dict[str, Any]
) -> dict[str, dict[str, float]]:
    """Intensity statistics per channel: those of the plans for CT channels where they have any, else the dataset's.

    Args:
        plans: Template or plans of a pretrained model.
        schemes: Normalisation scheme of each channel.
        fingerprint: The dataset's fingerprint.
    """
    own = fingerprint["foreground_intensity_properties_per_channel"]
    brought = plans.get("foreground_intensity_properties_per_channel") or {}
    statistics: dict[str, dict[str, float]] = {}
    for index, scheme in enumerate(schemes):
        key = str(index)
        if key not in own:
            raise UserError(
                f"Expected intensity statistics of {len(schemes)} channels in the dataset's fingerprint, but found "
                f"{len(own)}; delete dataset_fingerprint.json and plan again."
            )
        if scheme == CT_SCHEME and (brought.get(key) or brought.get("0")):
            statistics[key] = dict(brought.get(key) or brought["0"])
            logger.info(
                "Channel %d: intensities are scaled with the mean %.5g and standard deviation %.5g that the template "
                "brings along, not with the dataset's own (%.5g, %.5g).",
                index,
                statistics[key]["mean"],
                statistics[key]["std"],
                own[key]["mean"],
                own[key]["std"],
            )
        else:
            statistics[key] = dict(own[key])
    return statistics


def _one_per_channel(values: list[Any], channels: int, name: str) -> list[Any]:
    if len(values) == channels:
        return list(values)
    if len(set(values)) == 1:
        if len(values) != 1:
            logger.info("%s: %s is used for all %d channels of this dataset.", name, values[0], channels)
        return [values[0]] * channels
    raise UserError(
        f"Configuration {name} normalises {len(values)} channels in different ways ({', '.join(map(str, values))}), "
        f"but the dataset has {channels}; use a template made for {channels} channels."
    )
