"""``model.pt`` of MONAI bundles: SegResNet (wholeBody_ct_segmentation) and UNet (spleen_ct_segmentation).

A bundle's network sees images in the order (x, y, z), nnU-Net's in (z, y, x). Reversing the last three axes of every
convolution kernel makes the same network of it: each output is the same sum in another order.

Sources: https://github.com/Project-MONAI/model-zoo, models/wholeBody_ct_segmentation and models/spleen_ct_segmentation
(Apache-2.0): ``configs/inference.json`` and ``configs/metadata.json``.
"""

from __future__ import annotations

from torch import Tensor

from nnunetv2_ext.architectures.architecture import Architecture
from nnunetv2_ext.checkpoints.formats.base import CheckpointFormat, Translation, monai_profile
from nnunetv2_ext.checkpoints.raw import RawCheckpoint
from nnunetv2_ext.utilities.errors import UserError

_SEGRESNET_HEAD = "conv_final.2.conv"
_UNET_FIRST = "model.0.conv.unit0.conv.weight"
_WHOLE_BODY_OUTPUTS = 105


def permute_axes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Reverses the spatial axes of every convolution kernel, from (x, y, z) to (z, y, x) and back.

    Args:
        state: Name to tensor; 5-D tensors are kernels ``(out, in, x, y, z)``.
    """
    return {name: tensor.permute(0, 1, 4, 3, 2) if tensor.ndim == 5 else tensor for name, tensor in state.items()}


def _is_foreign(raw: RawCheckpoint) -> bool:
    """Weights of this package's own networks carry MONAI's names too, but come with nnU-Net's entries."""
    return "trainer_name" not in raw.content and "architecture" not in raw.content


def _recognises(raw: RawCheckpoint) -> bool:
    names = {f"{_SEGRESNET_HEAD}.weight", "convInit.conv.weight"}
    return _is_foreign(raw) and (raw.state.keys() >= names or _UNET_FIRST in raw.state)


def _translate(raw: RawCheckpoint) -> Translation:
    if any(tensor.ndim == 4 for tensor in raw.state.values()):
        raise UserError(f"{raw.path} holds a 2D network of MONAI, but only 3D bundles can be imported.")
    translation = _unet(raw) if _UNET_FIRST in raw.state else _segresnet(raw)
    translation.notes.append(
        "nnUNetv2_ext_predict prepares images as the bundle does (see preprocessing_profile.json in the model folder); "
        "stock nnUNetv2_predict normalises and resamples in nnU-Net's way, so that its labels differ."
    )
    return translation


def segresnet_translation(raw: RawCheckpoint) -> Translation:
    """Sizes of a `SegResNet` from weights that carry the names of MONAI's, turned to nnU-Net's order of axes.

    Raises:
        UserError: The network upsamples by transposed convolutions.
    """
    if any(name.startswith("up_samples.") and name.split(".")[2] != "0" for name in raw.state):
        raise UserError(f"{raw.path} is a SegResNet with learned upsampling, but only interpolation is supported.")
    stem = raw.shape("convInit.conv.weight")
    stages = raw.indices("down_layers.")
    architecture = Architecture(
        "nnunetv2_ext.architectures.monai_networks.SegResNet",
        {
            "init_filters": stem[0],
            # Number 0 of each stage is the convolution between stages.
            "blocks_down": [sum(i > 0 for i in raw.indices(f"down_layers.{stage}.")) for stage in stages],
            "blocks_up": [len(raw.indices(f"up_layers.{stage}.")) for stage in raw.indices("up_layers.")],
            "dropout_prob": 0.2,
            "spatial_dims": 3,
        },
    )
    state = {
        name.replace(_SEGRESNET_HEAD, "decoder.seg_layers.0"): tensor
        for name, tensor in permute_axes(raw.state).items()
    }
    classes = raw.shape(f"{_SEGRESNET_HEAD}.weight")[0]
    return Translation(state, architecture, input_channels=stem[1], num_classes=classes)


def _segresnet(raw: RawCheckpoint) -> Translation:
    translation = segresnet_translation(raw)
    is_low_resolution = "lowres" in raw.path.name
    translation.plans_template = f"wholebody_ct_segresnet_{'3mm' if is_low_resolution else '1p5mm'}"
    translation.preprocessing_profile = monai_profile(
        spacing=[3.0 if is_low_resolution else 1.5] * 3,
        intensity=[{"name": "normalize_nonzero"}, {"name": "scale", "minimum": -1.0, "maximum": 1.0}],
        overlap=0.25,
        padding="replicate",
    )
    if translation.num_classes == _WHOLE_BODY_OUTPUTS:
        translation.label_order = "monai_wholebody"
    translation.notes.append(
        f"The spacing is taken to be {'3.0' if is_low_resolution else '1.5'} mm from the name of the file "
        "(model_lowres.pt is the network of 3 mm)."
    )
    return translation


def _unet(raw: RawCheckpoint) -> Translation:
    prefix, channels = "model.", []
    while f"{prefix}0.conv.unit0.conv.weight" in raw.state:
        channels.append(raw.shape(f"{prefix}0.conv.unit0.conv.weight")[0])
        prefix += "1.submodule."
    channels.append(raw.shape(f"{prefix}conv.unit0.conv.weight")[0])
    first = raw.shape(_UNET_FIRST)
    start = "model.0.conv.unit"
    units = {name[len(start) :].split(".")[0] for name in raw.state if name.startswith(start)}
    is_batch = any(name.endswith("running_mean") for name in raw.state)
    architecture = Architecture(
        "nnunetv2_ext.architectures.monai_networks.UNet",
        {
            "channels": channels,
            "strides": [[2, 2, 2]] * (len(channels) - 1),
            "num_res_units": len(units),
            "norm": "batch" if is_batch else "instance",
            "spatial_dims": 3,
        },
    )
    classes = raw.shape("model.2.0.conv.weight")[1]
    translation = Translation(permute_axes(raw.state), architecture, input_channels=first[1], num_classes=classes)
    translation.plans_template = "spleen_ct_unet"
    translation.preprocessing_profile = monai_profile(
        spacing=[2.0, 1.5, 1.5],
        hounsfield=(-57.0, 164.0),
        overlap=0.5,
        blend="constant",
        inversion="linear_probabilities",
    )
    if classes == 2:
        translation.label_order = "monai_spleen"
    translation.notes.append("The weights do not tell the strides of a UNet; they are taken to be 2, as published.")
    return translation


FORMAT = CheckpointFormat(
    name="monai_bundle",
    description="MONAI bundle (model.pt of a SegResNet or UNet, bare or under 'model')",
    recognises=_recognises,
    translate=_translate,
)
