"""MedNeXt: the names of MONAI's class, bare or wrapped, and those of the authors' code (an nnU-Net v1).

Sources: https://github.com/MIC-DKFZ/MedNeXt (Apache-2.0), nnunet_mednext/network_architecture/mednextv1;
https://github.com/Project-MONAI/MONAI, monai/networks/nets/mednext.py.
"""

from __future__ import annotations

from dataclasses import replace

from nnunetv2_ext.architectures.architecture import Architecture
from nnunetv2_ext.checkpoints.formats.base import CheckpointFormat, Translation, rename
from nnunetv2_ext.checkpoints.raw import RawCheckpoint
from nnunetv2_ext.utilities.errors import UserError

_FIRST_STAGE = ("enc_stages.0.0.conv1.weight", "enc_block_0.0.conv1.weight")
_LAST_HEAD = "out_0.conv_out.weight"


def _recognises(raw: RawCheckpoint) -> bool:
    return _LAST_HEAD in raw.state and any(name in raw.state for name in _FIRST_STAGE)


def _translate(raw: RawCheckpoint) -> Translation:
    authors = _FIRST_STAGE[1] in raw.state
    stages = len(raw.indices("enc_block_")) if authors else len(raw.indices("enc_stages."))
    # The authors number decoder stages and outputs by their resolution, 0 being full resolution.
    heads = len([name for name in raw.state if name.startswith("out_") and name.endswith("conv_out.weight")])
    rules = [
        (r"dummy_tensor", ""),
        *(
            rule
            for stage in range(stages if authors else 0)
            for rule in (
                (rf"enc_block_{stage}\.(.*)", rf"enc_stages.{stage}.\1"),
                (rf"down_{stage}\.(.*)", rf"down_blocks.{stage}.\1"),
                (rf"up_{stage}\.(.*)", rf"up_blocks.{stages - 1 - stage}.\1"),
                (rf"dec_block_{stage}\.(.*)", rf"dec_stages.{stages - 1 - stage}.\1"),
            )
        ),
        (r"out_0\.conv_out\.(.*)", rf"decoder.seg_layers.{heads - 1}.\1"),
        *(
            (rf"out_{level}\.conv_out\.(.*)", rf"decoder.seg_layers.{heads - 1 - level}.\1")
            for level in range(1, heads)
        ),
        (r"out_blocks\.(\d+)\.conv_out\.(.*)", r"decoder.seg_layers.\1.\2"),
        (r"((?:stem|enc_stages|down_blocks|bottleneck|up_blocks|dec_stages)\..*)", r"\1"),
    ]
    state = {
        # A transposed convolution of kernel 1 is an ordinary one with its two axes of channels changed.
        name: tensor.transpose(0, 1) if name.startswith("decoder.") and tensor.ndim > 1 else tensor
        for name, tensor in rename(raw.state, rules, str(raw.path)).items()
    }
    return mednext_translation(replace(raw, state=state))


def mednext_translation(raw: RawCheckpoint) -> Translation:
    """Sizes of a `MedNeXt` from weights that carry its names.

    Raises:
        UserError: The number of outputs is one that MONAI's class does not have.
    """
    stem, down, up = raw.shape("stem.weight"), raw.indices("enc_stages."), raw.indices("dec_stages.")
    levels = len(raw.indices("decoder.seg_layers."))
    if levels not in (1, len(up) + 1):
        raise UserError(
            f"Expected one output or {len(up) + 1} of them, for deep supervision, in the MedNeXt in {raw.path}, but "
            f"found {levels}; is the file complete?"
        )
    kernel_size = raw.shape("enc_stages.0.0.conv1.weight")[2]

    def expansion(block: str) -> int:
        expanded, channels = raw.shape(f"{block}.0.conv2.weight")[:2]
        return expanded // channels

    arguments = {
        "init_filters": stem[0],
        "encoder_expansion_ratio": [expansion(f"enc_stages.{stage}") for stage in down],
        "bottleneck_expansion_ratio": expansion("bottleneck"),
        "decoder_expansion_ratio": [expansion(f"dec_stages.{stage}") for stage in up],
        "blocks_down": [len(raw.indices(f"enc_stages.{stage}.")) for stage in down],
        "blocks_bottleneck": len(raw.indices("bottleneck.")),
        "blocks_up": [len(raw.indices(f"dec_stages.{stage}.")) for stage in up],
        "kernel_size": kernel_size,
        "use_residual_connection": "down_blocks.0.res_conv.weight" in raw.state,
        "global_resp_norm": "enc_stages.0.0.global_resp_beta" in raw.state,
        "spatial_dims": len(stem) - 2,
        "levels": levels,
    }
    architecture = Architecture("nnunetv2_ext.architectures.mednext.MedNeXt", arguments)
    num_classes = raw.shape("decoder.seg_layers.0.weight")[0]
    return Translation(raw.state, architecture, input_channels=stem[1], num_classes=num_classes)


FORMAT = CheckpointFormat(
    name="mednext",
    description="MedNeXt (of MONAI's class, or of the authors' nnU-Net v1)",
    recognises=_recognises,
    translate=_translate,
)
