"""nnU-Net v1's ``Generic_UNet``, the U-Net of the published MultiTalent weights, as nnU-Net v2's ``PlainConvUNet``.

Everything about the network follows from its tensors: strides are the kernels of the transposed convolutions.
"""

from __future__ import annotations

import torch

from nnunetv2_ext.checkpoints.formats.base import CheckpointFormat, Translation, rename, unet_arguments
from nnunetv2_ext.checkpoints.raw import RawCheckpoint

CLASS_PATH = "dynamic_network_architectures.architectures.unet.PlainConvUNet"
MULTITALENT_OUTPUTS = 47


def _recognises(raw: RawCheckpoint) -> bool:
    return "conv_blocks_context.0.blocks.0.conv.weight" in raw.state and "tu.0.weight" in raw.state


def _translate(raw: RawCheckpoint) -> Translation:
    deepest = raw.indices("conv_blocks_context.")[-1]
    parts = (("conv", "conv"), ("instnorm", "norm"))
    rules = [
        rule
        for theirs, ours in parts
        for rule in (
            # The deepest stage is a sequence of blocks of one convolution each.
            (
                rf"conv_blocks_context\.{deepest}\.(\d+)\.blocks\.0\.{theirs}\.(weight|bias)",
                rf"encoder.stages.{deepest}.0.convs.\1.{ours}.\2",
            ),
            (
                rf"conv_blocks_context\.(\d+)\.blocks\.(\d+)\.{theirs}\.(weight|bias)",
                rf"encoder.stages.\1.0.convs.\2.{ours}.\3",
            ),
            (
                rf"conv_blocks_localization\.(\d+)\.(\d+)\.blocks\.0\.{theirs}\.(weight|bias)",
                rf"decoder.stages.\1.convs.\2.{ours}.\3",
            ),
        )
    ]
    rules += [
        (r"tu\.(\d+)\.(weight|bias)", r"decoder.transpconvs.\1.\2"),
        (r"seg_outputs\.(\d+)\.(weight|bias)", r"decoder.seg_layers.\1.\2"),
    ]
    state = rename(raw.state, rules, str(raw.path))
    # nnU-Net v2 gives a bias to transposed convolutions and heads; zero is the network that was trained.
    for name in [name for name in state if name.startswith(("decoder.transpconvs.", "decoder.seg_layers."))]:
        bias = name.replace(".weight", ".bias")
        channels = state[name].shape[0 if ".seg_layers." in name else 1]
        state.setdefault(bias, torch.zeros(channels))
    return unet_translation(RawCheckpoint(raw.path, state))


def unet_translation(raw: RawCheckpoint) -> Translation:
    """Sizes of a ``PlainConvUNet`` from weights that carry its names."""
    stages = raw.indices("encoder.stages.")
    first = raw.shape("encoder.stages.0.0.convs.0.conv.weight")
    decoder_stages = raw.indices("decoder.stages.")
    num_classes = raw.shape("decoder.seg_layers.0.weight")[0]
    architecture = unet_arguments(
        len(first) - 2,
        conv_bias="encoder.stages.0.0.convs.0.conv.bias" in raw.state,
        class_path=CLASS_PATH,
        n_stages=len(stages),
        features_per_stage=[raw.shape(f"encoder.stages.{stage}.0.convs.0.conv.weight")[0] for stage in stages],
        kernel_sizes=[list(raw.shape(f"encoder.stages.{stage}.0.convs.0.conv.weight")[2:]) for stage in stages],
        strides=strides_of_transposed_convolutions(raw, len(first) - 2),
        n_conv_per_stage=[len(raw.indices(f"encoder.stages.{stage}.0.convs.")) for stage in stages],
        n_conv_per_stage_decoder=[len(raw.indices(f"decoder.stages.{stage}.convs.")) for stage in decoder_stages],
    )
    return multitalent(Translation(raw.state, architecture, first[1], num_classes), "multitalent_unet")


def strides_of_transposed_convolutions(raw: RawCheckpoint, dimensions: int) -> list[list[int]]:
    """Strides of all stages: the transposed convolutions' kernels, deepest first, and ones for the first stage."""
    upsampling = [list(raw.shape(f"decoder.transpconvs.{u}.weight")[2:]) for u in raw.indices("decoder.transpconvs.")]
    return [[1] * dimensions, *reversed(upsampling)]


def multitalent(translation: Translation, template: str) -> Translation:
    """Adds what is known of the published MultiTalent networks, which are told by their 47 outputs."""
    if translation.num_classes == MULTITALENT_OUTPUTS:
        translation.label_order = "multitalent"
        translation.plans_template = template
    return translation


FORMAT = CheckpointFormat(
    name="nnunet_v1_unet",
    description="nnU-Net v1 U-Net, among them MultiTalent's (.model with .model.pkl, or the model folder)",
    recognises=_recognises,
    translate=_translate,
)
