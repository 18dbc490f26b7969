"""SuPreM: SegResNet and SwinUNETR, pretrained with 25 classes of AbdomenAtlas 1.1.

The file holds the weights under ``net``. Its SegResNet is a whole network with one sigmoid per class; its SwinUNETR
(``backbone.``) makes its last layers anew from each image, and what can be kept of it is all that comes before.
Networks see (x, y, z): the kernels of the SegResNet are turned as those of `monai_bundle`, the SwinUNETR turns images.

Source: https://github.com/MrGiovanni/SuPreM (CC BY-NC-ND 4.0), target_applications and direct_inference.
"""

from __future__ import annotations

from dataclasses import replace

from nnunetv2_ext.architectures.architecture import Architecture
from nnunetv2_ext.checkpoints.checkpoint import Publication
from nnunetv2_ext.checkpoints.formats.base import CheckpointFormat, Translation, monai_profile, says_orientation
from nnunetv2_ext.checkpoints.formats.monai_bundle import segresnet_translation
from nnunetv2_ext.checkpoints.raw import RawCheckpoint

_SEGRESNET = "conv_final.2.conv.weight"
_SWINUNETR = "swinViT.patch_embed.proj.weight"
_PREFIX = "backbone."
_HEAD = "out.conv.conv."
_OUTPUTS = 25

_PUBLICATION = Publication(
    name="SuPreM",
    source="https://github.com/MrGiovanni/SuPreM",
    licence="CC BY-NC-ND 4.0 (no commercial use, no derivatives passed on)",
    citation="Li et al., How Well Do Supervised Models Transfer to 3D Image Segmentation?, ICLR 2024",
)


def _recognises(raw: RawCheckpoint) -> bool:
    return raw.key == "net" and (_SEGRESNET in raw.state or _PREFIX + _SWINUNETR in raw.state)


def _translate(raw: RawCheckpoint) -> Translation:
    translation = _segresnet(raw) if _SEGRESNET in raw.state else _swinunetr(raw)
    translation.publication = _PUBLICATION
    translation.preprocessing_profile = monai_profile(hounsfield=(-175.0, 250.0), overlap=0.75)
    translation.notes.append(says_orientation("SuPreM"))
    if translation.num_classes == _OUTPUTS:
        translation.label_order, translation.sigmoid = "abdomenatlas_1_1", True
    elif translation.num_classes:
        translation.notes.append(
            f"Expected {_OUTPUTS} outputs, those of AbdomenAtlas 1.1, but found {translation.num_classes}: their names "
            "are not known."
        )
    return translation


def _segresnet(raw: RawCheckpoint) -> Translation:
    translation = segresnet_translation(raw)
    translation.plans_template = "suprem_segresnet"
    return translation


def _swinunetr(raw: RawCheckpoint) -> Translation:
    state = raw.below(_PREFIX)
    raw = replace(raw, state=state)
    stem = raw.shape(_SWINUNETR)
    arguments = {
        "feature_size": stem[0],
        "dimensions": len(stem) - 2,
        "activation_checkpointing": False,
        "reversed_axes": True,
    }
    architecture = Architecture("nnunetv2_ext.architectures.swinunetr.SwinUNETR", arguments)
    state = {name.replace(_HEAD, "decoder.seg_layers.0."): tensor for name, tensor in state.items()}
    translation = Translation(state, architecture, input_channels=stem[1], num_classes=0)
    translation.plans_template = "suprem_swinunetr"
    if f"{_HEAD}weight" in raw.state:
        translation.num_classes = raw.shape(f"{_HEAD}weight")[0]
    else:
        translation.absent = ("decoder.",)
    return translation


FORMAT = CheckpointFormat(
    name="suprem",
    description="SuPreM (.pth of its SegResNet or SwinUNETR)",
    recognises=_recognises,
    translate=_translate,
)
