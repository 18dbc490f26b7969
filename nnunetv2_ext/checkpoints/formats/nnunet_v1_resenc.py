"""nnU-Net v1's residual-encoder U-Net (``FabiansUNet``), among them MultiTalent's ResEnc weights."""

from __future__ import annotations

from dataclasses import replace

from nnunetv2_ext.architectures.resenc import StridedSkipResidualEncoderUNet
from nnunetv2_ext.checkpoints.formats.base import CheckpointFormat, Translation, rename, unet_arguments
from nnunetv2_ext.checkpoints.formats.nnunet_v1_unet import multitalent, strides_of_transposed_convolutions
from nnunetv2_ext.checkpoints.raw import RawCheckpoint

_BLOCK = r"encoder\.stages\.(\d+)\.convs\.(\d+)\."
_OUR_BLOCK = r"encoder.stages.\1.blocks.\2."
_RULES = [
    # The same tensors once more, under the sequences that hold the layers.
    (r".*\.all\..*", ""),
    (r"encoder\.initial_(conv|norm)\.(weight|bias)", r"encoder.stem.convs.0.\1.\2"),
    (_BLOCK + r"(conv|norm)(1|2)\.(weight|bias)", _OUR_BLOCK + r"conv\4.\3.\5"),
    (_BLOCK + r"downsample_skip\.0\.(weight|bias)", _OUR_BLOCK + r"skip.0.conv.\3"),
    (_BLOCK + r"downsample_skip\.1\.(weight|bias)", _OUR_BLOCK + r"skip.0.norm.\3"),
    (r"decoder\.tus\.(\d+)\.(weight|bias)", r"decoder.transpconvs.\1.\2"),
    (r"decoder\.stages\.(\d+)\.convs\.(\d+)\.(conv|norm)\.(weight|bias)", r"decoder.stages.\1.convs.\2.\3.\4"),
    (r"decoder\.deep_supervision_outputs\.(\d+)\.(weight|bias)", r"decoder.seg_layers.\1.\2"),
]


def _recognises(raw: RawCheckpoint) -> bool:
    return "encoder.initial_conv.weight" in raw.state and "decoder.tus.0.weight" in raw.state


def _translate(raw: RawCheckpoint) -> Translation:
    decoder_stages = raw.indices("decoder.stages.")
    # Older files keep the head of full resolution under a name of its own.
    last_head = (r"decoder\.segmentation_output\.(weight|bias)", rf"decoder.seg_layers.{decoder_stages[-1]}.\1")
    return resenc_translation(replace(raw, state=rename(raw.state, [*_RULES, last_head], str(raw.path))))


def resenc_translation(names: RawCheckpoint) -> Translation:
    """Sizes of a `StridedSkipResidualEncoderUNet` from weights that carry its names."""
    decoder_stages = names.indices("decoder.stages.")
    stages = names.indices("encoder.stages.")
    first_convolutions = [names.shape(f"encoder.stages.{stage}.blocks.0.conv1.conv.weight") for stage in stages]
    stem = names.shape("encoder.stem.convs.0.conv.weight")
    network_class = StridedSkipResidualEncoderUNet
    architecture = unet_arguments(
        len(stem) - 2,
        conv_bias="encoder.stem.convs.0.conv.bias" in names.state,
        class_path=f"{network_class.__module__}.{network_class.__name__}",
        n_stages=len(stages),
        features_per_stage=[shape[0] for shape in first_convolutions],
        kernel_sizes=[list(shape[2:]) for shape in first_convolutions],
        strides=strides_of_transposed_convolutions(names, len(stem) - 2),
        n_blocks_per_stage=[len(names.indices(f"encoder.stages.{stage}.blocks.")) for stage in stages],
        n_conv_per_stage_decoder=[len(names.indices(f"decoder.stages.{stage}.convs.")) for stage in decoder_stages],
    )
    num_classes = names.shape(f"decoder.seg_layers.{decoder_stages[-1]}.weight")[0]
    return multitalent(Translation(names.state, architecture, stem[1], num_classes), "multitalent_resenc")


FORMAT = CheckpointFormat(
    name="nnunet_v1_resenc",
    description="nnU-Net v1 residual-encoder U-Net, among them MultiTalent's ResEnc",
    recognises=_recognises,
    translate=_translate,
)
