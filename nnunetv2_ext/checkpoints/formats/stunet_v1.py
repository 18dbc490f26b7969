"""Published STU-Net weights (``small_ep4k.model`` ...): the names of uni-medical/STU-Net, for nnU-Net v1 and v2."""

from __future__ import annotations

from dataclasses import replace

from nnunetv2_ext.architectures.architecture import Architecture
from nnunetv2_ext.architectures.stunet import STUNet
from nnunetv2_ext.architectures.stunet_sizes import PUBLISHED_STRIDES, strides_that_fit, stunet_strides
from nnunetv2_ext.checkpoints.formats.base import (
    TOTALSEGMENTATOR_ORIENTATION,
    CheckpointFormat,
    Translation,
    rename,
)
from nnunetv2_ext.checkpoints.raw import RawCheckpoint
from nnunetv2_ext.utilities.errors import UserError

_PUBLISHED_OUTPUTS = 105

_RULES = [
    (rf"{theirs}\.(\d+)\.(\d+)\.{layer}\.(weight|bias)", rf"{ours}.\1.\2.{renamed}.\3")
    for theirs, ours in (("conv_blocks_context", "encoder.stages"), ("conv_blocks_localization", "decoder.stages"))
    for layer, renamed in (
        ("conv1", "conv1"),
        ("norm1", "norm1"),
        ("conv2", "conv2"),
        ("norm2", "norm2"),
        ("conv3", "shortcut"),
    )
] + [
    (r"upsample_layers\.(\d+)\.conv\.(weight|bias)", r"decoder.upsample_layers.\1.conv.\2"),
    (r"seg_outputs\.(\d+)\.(weight|bias)", r"decoder.seg_layers.\1.\2"),
]


def _recognises(raw: RawCheckpoint) -> bool:
    return "conv_blocks_context.0.0.conv1.weight" in raw.state and "upsample_layers.0.conv.weight" in raw.state


def _translate(raw: RawCheckpoint) -> Translation:
    renamed = replace(raw, state=rename(raw.state, _RULES, str(raw.path)))
    translation = stunet_from_names(renamed)
    translation.plans_template = "stunet_totalsegmentator"
    if translation.num_classes == _PUBLISHED_OUTPUTS:
        translation.label_order = "stunet_totalsegmentator"
        translation.orientation = TOTALSEGMENTATOR_ORIENTATION
    if raw.plans is None:
        translation.notes.append(
            "The network was trained with nnU-Net v1, which normalised images after resampling and averaged "
            "probabilities; nnU-Net v2 normalises before and averages logits: predictions differ slightly."
        )
    return translation


def stunet_from_names(raw: RawCheckpoint) -> Translation:
    """Sizes of an STU-Net from weights that carry the names of `STUNet`; its strides from the plans.

    Raises:
        UserError: The strides are not known.
    """
    stages = raw.indices("encoder.stages.")
    first = raw.shape("encoder.stages.0.0.conv1.weight")
    dimensions = len(first) - 2
    features = [raw.shape(f"encoder.stages.{stage}.0.conv1.weight")[0] for stage in stages]
    arguments = {
        "features_per_stage": features,
        "n_blocks_per_stage": [len(raw.indices(f"encoder.stages.{stage}.")) for stage in stages],
        "strides": _strides(raw, len(stages), dimensions),
    }
    architecture = Architecture(f"{STUNet.__module__}.{STUNet.__name__}", arguments)
    num_classes = raw.shape("decoder.seg_layers.0.weight")[0]
    return Translation(raw.state, architecture, input_channels=first[1], num_classes=num_classes)


def _strides(raw: RawCheckpoint, n_stages: int, dimensions: int) -> list[list[int]]:
    configuration, stage = raw.configuration_plans(), raw.stage_plans()
    patch_size = None
    if configuration is not None:
        planned = configuration["architecture"]["arch_kwargs"]["strides"]
        patch_size = configuration.get("patch_size")
    elif stage is not None:
        # nnU-Net v1 lists the pooling between stages; v2 lists a stride for every stage.
        planned = [[1] * dimensions, *(list(map(int, pool)) for pool in stage["pool_op_kernel_sizes"])]
        patch_size = stage.get("patch_size")
    elif dimensions == 3:
        planned = PUBLISHED_STRIDES
    else:
        raise UserError(
            f"{raw.path} is a {dimensions}D STU-Net, of which none was published; give the plans it was trained with."
        )
    # The last one, because that of the first stage is not in plans of nnU-Net v1.
    if len(planned[-1]) != dimensions:
        raise UserError(
            f"The weights in {raw.path} are {dimensions}D, but the plans are {len(planned[-1])}D; give the plans and "
            "the configuration that they were trained with."
        )
    strides = stunet_strides(planned, n_stages)
    return strides if patch_size is None else strides_that_fit(strides, [int(edge) for edge in patch_size])


FORMAT = CheckpointFormat(
    name="stunet_v1",
    description="STU-Net as published (.model with or without .model.pkl; also .pth of its nnU-Net v2 fork)",
    recognises=_recognises,
    translate=_translate,
)
