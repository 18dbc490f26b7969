"""Checkpoints of nnU-Net v2, of this package, and safetensors files that this package wrote."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from nnunetv2_ext.architectures.architecture import Architecture
from nnunetv2_ext.architectures.families import recognise
from nnunetv2_ext.architectures.label_tree_network import PARENTS_NAME
from nnunetv2_ext.architectures.resenc import StridedSkipResidualEncoderUNet
from nnunetv2_ext.checkpoints.checkpoint import match_state
from nnunetv2_ext.checkpoints.formats.base import (
    TOTALSEGMENTATOR_ORIENTATION,
    CheckpointFormat,
    Translation,
    without_aliases,
)
from nnunetv2_ext.checkpoints.formats.mednext import mednext_translation
from nnunetv2_ext.checkpoints.formats.nnunet_v1_resenc import resenc_translation
from nnunetv2_ext.checkpoints.formats.nnunet_v1_unet import unet_translation
from nnunetv2_ext.checkpoints.formats.stunet_v1 import stunet_from_names
from nnunetv2_ext.checkpoints.raw import RawCheckpoint
from nnunetv2_ext.utilities.errors import UserError

_STRIDED_RESENC = f"{StridedSkipResidualEncoderUNet.__module__}.{StridedSkipResidualEncoderUNet.__name__}"


def _recognises(raw: RawCheckpoint) -> bool:
    return raw.plans is not None or "architecture" in raw.content or _reader_of_names(raw) is not None


def _reader_of_names(raw: RawCheckpoint) -> Callable[[RawCheckpoint], Translation] | None:
    """For networks that are known by the names of their weights alone: what infers their sizes."""
    readers = {
        "resenc": resenc_translation,
        "unet": unet_translation,
        "swinunetr": _swinunetr_translation,
        "mednext": mednext_translation,
    }
    family = recognise(raw.state)
    return None if family is None else stunet_from_names if family.size else readers[family.key]


def _translate(raw: RawCheckpoint) -> Translation:
    translation = _by_kind(replace(raw, state=without_aliases(raw.state)))
    if re.match(r"Dataset\d+_TotalSegmentator", str((raw.plans or {}).get("dataset_name"))):
        translation.orientation = TOTALSEGMENTATOR_ORIENTATION
    return translation


def _by_kind(raw: RawCheckpoint) -> Translation:
    if raw.content.get("architecture") is not None:
        return _from_architecture(raw, Architecture.from_plans(raw.content))
    reader = _reader_of_names(raw)
    if reader is stunet_from_names:
        # Trainers of STU-Net build it whatever the plans name; only its strides are the plans'.
        return reader(raw)
    configuration = raw.configuration_plans()
    if configuration is None:
        if reader is None:
            raise UserError(f"The network of {raw.path} is not known; give the plans it was trained with.")
        return reader(raw)
    planned = Architecture.from_plans(configuration)
    # MultiTalent's residual encoder takes the arguments of nnU-Net's, whose plans its trainer also accepts.
    candidates = [planned, replace(planned, class_path=_STRIDED_RESENC)] if "ResidualEnc" in str(planned) else [planned]
    for candidate in candidates:
        if _first_difference(raw, candidate) is None:
            return _from_architecture(raw, candidate)
    # Other trainers that ignore the plans' network are told by the names of the weights.
    return reader(raw) if reader is not None else _from_architecture(raw, planned)


def _from_architecture(raw: RawCheckpoint, architecture: Architecture) -> Translation:
    difference = _first_difference(raw, architecture)
    if difference is not None:
        trainer = raw.content.get("trainer_name")
        raise UserError(
            f"The weights in {raw.path} are not those of {architecture}, which the plans name (first difference: "
            f"{difference}); the trainer{f' {trainer}' if trainer else ''} built another network: give plans that name "
            "it."
        )
    return Translation(raw.state, architecture, _inputs(raw, architecture), _outputs(raw, architecture))


def _first_difference(raw: RawCheckpoint, architecture: Architecture) -> str | None:
    """Name of a tensor that only one side has or that has another shape; None if the weights are this network's."""
    network = architecture.build(_inputs(raw, architecture), _outputs(raw, architecture), deep_supervision=False)
    state = {name: tensor for name, tensor in raw.state.items() if name != PARENTS_NAME}
    matched, missing, unexpected = match_state(network, state)
    tensors = network.state_dict()
    different = [name for name, value in matched.items() if value.shape != tensors[name].shape]
    return next(iter(missing + unexpected + different), None)


def _swinunetr_translation(raw: RawCheckpoint) -> Translation:
    head, stem = raw.shape("decoder.seg_layers.0.weight"), raw.shape("swinViT.patch_embed.proj.weight")
    arguments = {"feature_size": head[1], "dimensions": len(head) - 2, "activation_checkpointing": False}
    architecture = Architecture("nnunetv2_ext.architectures.swinunetr.SwinUNETR", arguments)
    return Translation(raw.state, architecture, input_channels=stem[1], num_classes=head[0])


def _outputs(raw: RawCheckpoint, architecture: Architecture) -> int:
    if "num_classes" in raw.content:
        return int(raw.content["num_classes"])
    name, axis = architecture.family.outputs
    if name not in raw.state:
        raise UserError(f"Expected segmentation heads with {name} in {raw.path}, but found none.")
    return raw.shape(name)[axis]


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
