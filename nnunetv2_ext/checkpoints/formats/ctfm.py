"""CT-FM: the self-supervised encoder, and the whole-body network of 117 classes, both MONAI's SegResNetDS.

Published as ``model.safetensors`` with a ``config.json``, and as Lightning's ``.ckpt``. The networks see the axes in
the order superior, posterior, left, which is nnU-Net's (z, y, x) of an image in LPS: no kernel is turned.

Source: https://github.com/project-lighter/CT-FM (Apache-2.0) and its lighter-zoo.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from nnunetv2_ext.architectures.architecture import Architecture
from nnunetv2_ext.checkpoints.checkpoint import Publication
from nnunetv2_ext.checkpoints.formats.base import CheckpointFormat, Translation, monai_profile
from nnunetv2_ext.checkpoints.raw import RawCheckpoint
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.files import read_json
from nnunetv2_ext.utilities.validation import entries, integer, list_of

_WHOLE_BODY_OUTPUTS = 118

_PUBLICATION = Publication(
    name="CT-FM",
    source="https://github.com/project-lighter/CT-FM",
    licence="Apache-2.0 (commercial use allowed)",
    citation="Pai et al., Vision Foundation Models for Computed Tomography, 2025, https://arxiv.org/abs/2501.09001",
)
_CONFIG = entries(
    {
        **dict.fromkeys(("init_filters", "in_channels", "out_channels", "dsdepth", "spatial_dims"), integer(1)),
        "blocks_down": list_of(integer(1)),
    }
)


def _recognises(raw: RawCheckpoint) -> bool:
    names = {"encoder.conv_init.weight", "encoder.layers.0.blocks.0.conv1.weight"}
    return raw.state.keys() >= names and "architecture" not in raw.content and raw.plans is None


def _translate(raw: RawCheckpoint) -> Translation:
    translation = segresnet_ds_translation(raw, "encoder.", "up_layers.")
    if translation.architecture.dimensions == 3:
        translation.plans_template = "ctfm_segresnet"
    _check_config(raw, translation)
    translation.publication = _PUBLICATION
    translation.preprocessing_profile = monai_profile(
        orientation="LPS", spacing=None, hounsfield=(-1024.0, 2048.0), window_size=[96, 160, 160], overlap=0.625
    )
    if translation.num_classes == _WHOLE_BODY_OUTPUTS:
        translation.label_order = "totalsegmentator_v2"
    translation.notes.append(
        "CT-FM does not resample images; nnUNetv2_ext_predict neither, while stock nnUNetv2_predict follows the "
        "spacing of the plans. CT-FM keeps the largest component of each class, which --keep_largest does."
    )
    return translation


def segresnet_ds_translation(
    raw: RawCheckpoint, encoder: str, decoder: str, state: dict[str, Tensor] | None = None
) -> Translation:
    """Sizes of a `SegResNetDS` from weights that carry the names of MONAI's; its decoder may be missing.

    Args:
        raw: The checkpoint.
        encoder: What the names of its encoder begin with.
        decoder: What those of its decoder stages do.
        state: The weights that are kept, under such names; all of them by default.
    """
    stem = raw.shape(f"{encoder}conv_init.weight")
    stages, ups = raw.indices(f"{encoder}layers."), raw.indices(decoder)
    heads = [stage for stage in ups if f"{decoder}{stage}.head.weight" in raw.state]
    is_batch = any(name.startswith(encoder) and name.endswith("running_mean") for name in raw.state)
    arguments: dict[str, Any] = {
        "init_filters": stem[0],
        "blocks_down": [len(raw.indices(f"{encoder}layers.{stage}.blocks.")) for stage in stages],
        "levels": max(len(heads), 1),
        "norm": "batch" if is_batch else "instance",
        "spatial_dims": len(stem) - 2,
    }
    if ups:
        arguments["blocks_up"] = [len(raw.indices(f"{decoder}{stage}.blocks.")) for stage in ups]
        if f"{decoder}0.upsample.deconv.weight" not in raw.state:
            arguments["upsample_mode"] = "nontrainable"
    names = {}
    for name, tensor in (raw.state if state is None else state).items():
        if name.startswith(decoder):
            stage, _, rest = name[len(decoder) :].partition(".")
            if rest.startswith("head."):
                name = f"decoder.seg_layers.{heads.index(int(stage))}.{rest.removeprefix('head.')}"
        if name.startswith((encoder, decoder, "decoder.seg_layers.")):
            names[name] = tensor
    architecture = Architecture("nnunetv2_ext.architectures.segresnet_ds.SegResNetDS", arguments)
    translation = Translation(names, architecture, input_channels=stem[1], num_classes=0)
    if heads:
        translation.num_classes = raw.shape(f"{decoder}{heads[-1]}.head.weight")[0]
    else:
        translation.absent = ("decoder.",) if ups else ("decoder.", "up_layers.")
    return translation


def _check_config(raw: RawCheckpoint, translation: Translation) -> None:
    """Compares what the file beside the weights says of the network with what the weights say."""
    file = raw.path.with_name("config.json")
    if not file.is_file():
        return
    content, arguments = read_json(file, _CONFIG), translation.architecture.arguments
    found = {
        "init_filters": arguments["init_filters"],
        "blocks_down": arguments["blocks_down"],
        "in_channels": translation.input_channels,
        "spatial_dims": arguments["spatial_dims"],
    }
    if translation.num_classes:
        found |= {"out_channels": translation.num_classes, "dsdepth": arguments["levels"]}
    for name, value in found.items():
        if content.get(name, value) != value:
            raise UserError(
                f"Expected a SegResNetDS with {name} {content[name]}, as {file} says, but {raw.path} holds one with "
                f"{value}; copy both files again, or remove config.json."
            )


FORMAT = CheckpointFormat(
    name="ctfm",
    description="CT-FM's SegResNetDS (model.safetensors, or .ckpt of Lightning)",
    recognises=_recognises,
    translate=_translate,
)
