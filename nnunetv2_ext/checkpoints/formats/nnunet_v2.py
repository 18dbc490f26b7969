"""Checkpoints of nnU-Net v2, of this package, and safetensors files that this package wrote."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from nnunetv2_ext.checkpoints.architecture import Architecture
from nnunetv2_ext.checkpoints.checkpoint import match_state
from nnunetv2_ext.checkpoints.formats.base import CheckpointFormat, Translation
from nnunetv2_ext.checkpoints.formats.nnunet_v1_unet import unet_translation
from nnunetv2_ext.checkpoints.formats.stunet_v1 import stunet_from_names
from nnunetv2_ext.checkpoints.raw import RawCheckpoint
from nnunetv2_ext.utilities.errors import UserError

_STUNET_NAMES = {"encoder.stages.0.0.conv1.weight", "decoder.upsample_layers.0.conv.weight"}
_PLAIN_UNET_NAMES = {"encoder.stages.0.0.convs.0.conv.weight", "decoder.transpconvs.0.weight"}


def _recognises(raw: RawCheckpoint) -> bool:
    return (
        raw.plans is not None
        or "architecture" in raw.content
        or raw.state.keys() >= _STUNET_NAMES
        or raw.state.keys() >= _PLAIN_UNET_NAMES
    )


def _translate(raw: RawCheckpoint) -> Translation:
    state = {
        name: tensor
        for name, tensor in raw.state.items()
        if not (name.startswith("decoder.encoder.") or ".all_modules." in name)
    }
    raw = replace(raw, state=state)
    if isinstance(raw.content.get("architecture"), Mapping):
        return _from_architecture(raw, Architecture.from_plans(raw.content))
    if raw.state.keys() >= _STUNET_NAMES:
        # Trainers of STU-Net build it whatever the plans name; only the strides are the plans'.
        return stunet_from_names(raw)
    configuration = raw.configuration_plans()
    if configuration is not None:
        return _from_architecture(raw, Architecture.from_plans(configuration))
    return unet_translation(raw)


def _from_architecture(raw: RawCheckpoint, architecture: Architecture) -> Translation:
    num_classes, input_channels = _outputs(raw), _inputs(raw, architecture)
    network = architecture.build(input_channels, num_classes, deep_supervision=False)
    _, missing, unexpected = match_state(network, raw.state)
    if missing or unexpected:
        trainer = raw.content.get("trainer_name")
        raise UserError(
            f"The weights in {raw.path} are not those of {architecture}, which the plans name (first difference: "
            f"{(missing + unexpected)[0]}); the trainer{f' {trainer}' if trainer else ''} built another network: "
            "give plans that name it."
        )
    return Translation(raw.state, architecture, input_channels, num_classes)


def _outputs(raw: RawCheckpoint) -> int:
    if "num_classes" in raw.content:
        return int(raw.content["num_classes"])
    heads = [name for name in raw.state if name.startswith("decoder.seg_layers.") and name.endswith(".weight")]
    if not heads:
        raise UserError(f"Expected segmentation heads named decoder.seg_layers.* in {raw.path}, but found none.")
    return raw.shape(heads[0])[0]


def _inputs(raw: RawCheckpoint, architecture: Architecture) -> int:
    if "input_channels" in raw.content:
        return int(raw.content["input_channels"])
    if raw.dataset_json is not None and raw.dataset_json.get("channel_names"):
        return len(raw.dataset_json["channel_names"])
    # The first convolution of the file is the stem's: state dicts keep the order of construction.
    weights = [tensor for name, tensor in raw.state.items() if name.endswith(".weight") and tensor.ndim >= 4]
    if not weights:
        raise UserError(f"The number of input channels of {architecture} in {raw.path} is not known.")
    return int(weights[0].shape[1])


FORMAT = CheckpointFormat(
    name="nnunet_v2",
    description="nnU-Net v2 (.pth or model folder), and .safetensors with metadata",
    recognises=_recognises,
    translate=_translate,
)
