"""VISTA3D and NV-Segment-CT: the automatic branch, folded into a plain network of 127 classes.

The published network is asked for classes by their numbers, whose embeddings become kernels; embeddings of all classes
that it supports, run through its ``mlp`` once, are the rows of an ordinary head. The interactive branch is left out.
Networks see (x, y, z); see `monai_bundle` about the turned kernels.

Source: https://github.com/Project-MONAI/model-zoo, models/vista3d (code Apache-2.0, weights NVIDIA License);
https://github.com/Project-MONAI/MONAI, monai/networks/nets/vista3d.py.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from nnunetv2_ext.checkpoints.checkpoint import Publication
from nnunetv2_ext.checkpoints.formats.base import CheckpointFormat, Translation, monai_profile, says_orientation
from nnunetv2_ext.checkpoints.formats.ctfm import segresnet_ds_translation
from nnunetv2_ext.checkpoints.formats.monai_bundle import permute_axes
from nnunetv2_ext.checkpoints.raw import RawCheckpoint
from nnunetv2_ext.labels.label_order import LabelOrder
from nnunetv2_ext.utilities.errors import UserError

_ENCODER, _DECODER = "image_encoder.encoder.", "image_encoder.up_layers_auto."
_EMBEDDINGS = "class_embeddings.weight"
_MAPPING = "image_post_mapping."
_HEAD = "decoder.seg_layers.0."
_ORDER = "vista3d"

_PUBLICATION = Publication(
    name="VISTA3D (NV-Segment-CT)",
    source="https://github.com/Project-MONAI/model-zoo, models/vista3d",
    licence="NVIDIA License (no commercial use: research or evaluation only)",
    citation="He et al., VISTA3D: A Unified Segmentation Foundation Model For 3D Medical Imaging, CVPR 2025, "
    "https://arxiv.org/abs/2406.05285",
)


def _recognises(raw: RawCheckpoint) -> bool:
    names = {f"{_ENCODER}conv_init.weight", f"{_DECODER}0.blocks.0.conv1.weight"}
    return raw.state.keys() >= names and "architecture" not in raw.content


def _translate(raw: RawCheckpoint) -> Translation:
    # MONAI before 1.4 keeps the parts of the class head apart.
    raw = replace(raw, state={name.removeprefix("class_head."): tensor for name, tensor in raw.state.items()})
    order = LabelOrder.read(_ORDER)
    numbers = [int(value) for value in order.labels.values() if isinstance(value, int)]
    if raw.shape(_EMBEDDINGS)[0] <= max(numbers):
        raise UserError(
            f"Expected embeddings of more than {max(numbers)} classes in {raw.path}, but found "
            f"{raw.shape(_EMBEDDINGS)[0]}; only VISTA3D of 132 classes can be read."
        )
    kept = permute_axes({name: tensor for name, tensor in raw.state.items() if name.startswith((_ENCODER, _DECODER))})
    translation = segresnet_ds_translation(raw, _ENCODER, _DECODER, kept)
    if translation.architecture.arguments["levels"] != 1 or translation.absent:
        raise UserError(f"Expected a decoder with one output in {raw.path}, but found another; is this VISTA3D?")
    state = {
        name.replace(_DECODER, "up_layers.").replace(_ENCODER, "encoder.").replace(_HEAD, "embedding."): tensor
        for name, tensor in translation.state.items()
    }
    state |= permute_axes({name: tensor for name, tensor in raw.state.items() if name.startswith(_MAPPING)})
    state[f"{_HEAD}weight"] = _kernels(raw, torch.tensor(numbers))[:, :, None, None, None]
    state[f"{_HEAD}bias"] = torch.zeros(len(numbers))
    arguments = {name: value for name, value in translation.architecture.arguments.items() if name != "levels"}
    return replace(
        translation,
        state=state,
        architecture=replace(
            translation.architecture,
            class_path="nnunetv2_ext.architectures.segresnet_ds.VISTA3D",
            arguments=arguments,
        ),
        num_classes=len(numbers),
        label_order=_ORDER,
        sigmoid=True,
        plans_template="vista3d",
        preprocessing_profile=monai_profile(
            hounsfield=(-963.8247715525971, 1053.678477684517), window_size=[128, 128, 128], overlap=0.3
        ),
        publication=_PUBLICATION,
        notes=[
            "The interactive branch of VISTA3D (points) is left out; its automatic branch is folded into a plain "
            f"network of {len(numbers)} classes.",
            says_orientation("VISTA3D"),
        ],
    )


def _kernels(raw: RawCheckpoint, numbers: Tensor) -> Tensor:
    """What MONAI's ``ClassMappingClassify`` makes of the embeddings of some classes."""
    embeddings = raw.state[_EMBEDDINGS][numbers].float()
    if "mlp.0.weight" not in raw.state:
        return embeddings
    hidden = functional.linear(embeddings, raw.state["mlp.0.weight"].float(), raw.state["mlp.0.bias"].float())
    # An instance norm of one channel, without weights of its own.
    hidden = functional.gelu(functional.instance_norm(hidden[:, None])[:, 0])
    return functional.linear(hidden, raw.state["mlp.3.weight"].float(), raw.state["mlp.3.bias"].float())


FORMAT = CheckpointFormat(
    name="vista3d",
    description="VISTA3D, NV-Segment-CT (model.pt)",
    recognises=_recognises,
    translate=_translate,
)
