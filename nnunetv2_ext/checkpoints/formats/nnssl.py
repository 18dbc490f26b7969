"""Checkpoints of nnssl, such as those of OpenMind and nnFoundation: self-supervised ResEnc-L and Primus, plain U-Nets.

An adaptation plan in the file says which network the weights are for and what their names begin with. What was trained
to fill gaps in images has no segmentation heads; decoder weights are kept where they are those of the network.

Source: https://github.com/MIC-DKFZ/nnssl, src/nnssl/adaptation_planning and architectures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from nnunetv2_ext.architectures.architecture import Architecture
from nnunetv2_ext.checkpoints.checkpoint import Publication, match_state
from nnunetv2_ext.checkpoints.formats.base import CheckpointFormat, Translation, unet_arguments
from nnunetv2_ext.checkpoints.plans_v1 import CONFIGURATION_DEFAULTS
from nnunetv2_ext.checkpoints.raw import RawCheckpoint
from nnunetv2_ext.checkpoints.shapes import ADAPTATION_PLAN
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.validation import check

_SECTION = "nnssl_adaptation_plan"
_STOCK = "dynamic_network_architectures.architectures.unet."
_HEADS = "decoder.seg_layers."

#: Attention heads of Primus, which its weights do not tell; of other sizes the adaptation plan does.
_ATTENTION_HEADS = {"PrimusS": 6, "PrimusB": 12, "PrimusM": 12, "PrimusL": 16, "PrimusX": None}


def _recognises(raw: RawCheckpoint) -> bool:
    return isinstance(raw.content.get(_SECTION), Mapping)


def _translate(raw: RawCheckpoint) -> Translation:
    plan = check(raw.content[_SECTION], ADAPTATION_PLAN, f"the adaptation plan in {raw.path}")
    configuration = _configuration(raw, plan)
    name = plan["architecture_plans"]["arch_class_name"]
    state = _with_our_names(raw, plan, name)
    named = RawCheckpoint(raw.path, state)
    if name in _ATTENTION_HEADS:
        own = plan["architecture_plans"].get("arch_kwargs") or {}
        heads = _ATTENTION_HEADS[name] or own.get("encoder_eva_numheads")
        if heads is None:
            raise UserError(f"Expected encoder_eva_numheads of the {name} in the adaptation plan of {raw.path}.")
        architecture = _primus(named, own.get("input_shape") or configuration.get("patch_size"), heads)
    elif name in ("ResEncL", "NoSkipResEncL"):
        architecture = _resenc(named)
    elif name in ("ResidualEncoderUNet", "PlainConvUNet") and plan["architecture_plans"].get("arch_kwargs"):
        arguments = plan["architecture_plans"]["arch_kwargs"]
        imported = [key for key in ("conv_op", "norm_op", "dropout_op", "nonlin") if arguments.get(key) is not None]
        architecture = Architecture(f"{_STOCK}{name}", arguments, imported)
        architecture.check()
    else:
        known = ", ".join([*_ATTENTION_HEADS, "ResEncL", "NoSkipResEncL", "ResidualEncoderUNet", "PlainConvUNet"])
        raise UserError(f"Expected one of {known} as the network of {raw.path}, but its adaptation plan has {name!r}.")
    channels = plan["pretrain_num_input_channels"]
    state, absent = _parts(state, architecture, channels)
    return Translation(
        state,
        architecture,
        input_channels=channels,
        num_classes=0,
        absent=absent,
        plans=_plans(plan, configuration, name) if raw.plans is None else None,
        publication=_publication(raw),
        notes=[
            f"The weights are those of a self-supervised {name} ({raw.content.get('trainer_name')}): what they lack, "
            f"{', '.join(absent)}, begins anew."
        ],
    )


def _plans(plan: Mapping[str, Any], configuration: Mapping[str, Any], network: str) -> dict[str, Any]:
    """nnU-Net's plans as those of the pretraining say it; their network is for the reader of all checkpoints to add."""
    schemes = list(configuration.get("normalization_schemes") or ["ZScoreNormalization"])[:1]
    return {
        "dataset_name": "nnssl",
        "plans_name": "nnssl",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {
            "3d_fullres": {
                **CONFIGURATION_DEFAULTS,
                "batch_dice": False,
                "batch_size": 2,
                "patch_size": list(plan["recommended_downstream_patchsize"]),
                "spacing": list(configuration.get("spacing") or [1.0, 1.0, 1.0]),
                "normalization_schemes": schemes,
                "use_mask_for_norm": [False] * len(schemes),
                **({"patch_size_divisible_by": [8, 8, 8]} if network in _ATTENTION_HEADS else {}),
            }
        },
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
    }


def _configuration(raw: RawCheckpoint, plan: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration of the pretraining, or the only one that its plan holds."""
    configurations = plan["pretrain_plan"]["configurations"]
    name = (raw.content.get("init_args") or {}).get("configuration_name")
    found: Mapping[str, Any] = configurations.get(name) or next(iter(configurations.values()))
    return found


def _with_our_names(raw: RawCheckpoint, plan: Mapping[str, Any], network: str) -> dict[str, Tensor]:
    """Encoder, stem and decoder under the names that the network has today."""
    encoder, stem = ("eva", "down_projection") if network in _ATTENTION_HEADS else ("encoder.stages", "encoder.stem")
    if network == "PlainConvUNet":
        stem = "encoder.stages.0"
    state: dict[str, Tensor] = {}
    for theirs, ours in ((plan["key_to_encoder"], encoder), (plan["key_to_stem"], stem)):
        part = raw.below(f"{theirs}.")
        if not part:
            raise UserError(
                f"Expected weights called {theirs}.* in {raw.path}, as its adaptation plan says, but found none; is "
                "the file complete?"
            )
        state |= {f"{ours}.{name}": tensor for name, tensor in part.items() if ".all_modules." not in name}
    return state | {f"decoder.{name}": tensor for name, tensor in raw.below("decoder.").items()}


def _parts(
    state: dict[str, Tensor], architecture: Architecture, channels: int
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """What there is of the network, and what the names of the rest begin with."""
    with torch.device("meta"):
        network = architecture.build(channels, 1, deep_supervision=False)
    if architecture.family.key == "primus":
        return {name: tensor for name, tensor in state.items() if not name.startswith("decoder.")}, (
            "up_projection.",
            "mask_token",
        )
    matched, missing, _ = match_state(network, state)
    tensors = network.state_dict()
    decoder = [name for name in (*matched, *missing) if name.startswith("decoder.") and not name.startswith(_HEADS)]
    fits = all(name in matched and matched[name].shape == tensors[name].shape for name in decoder)
    kept = [name for name in matched if not name.startswith(_HEADS if fits else "decoder.")]
    unknown = [name for name in state if name not in matched and not name.startswith("decoder.")]
    return {name: state[name] for name in [*kept, *unknown]}, (_HEADS,) if fits else ("decoder.",)


def _primus(raw: RawCheckpoint, patch_size: Sequence[int] | None, heads: int) -> Architecture:
    embed_dim, _, *token = raw.shape("down_projection.proj.weight")
    places = raw.shape("eva.pos_embed")[1]
    grid = [edge // size for edge, size in zip(patch_size or (), token, strict=False)]
    if len(grid) != 3 or places != grid[0] * grid[1] * grid[2]:
        raise UserError(
            f"Expected embeddings of as many places as a patch of {patch_size} has tokens of {token} in {raw.path}, "
            f"but found {places}."
        )
    arguments = {
        "embed_dim": embed_dim,
        "eva_depth": len(raw.indices("eva.blocks.")),
        "eva_numheads": heads,
        "input_shape": list(patch_size or ()),
        "patch_embed_size": token,
        "init_values": 0.1 if "eva.blocks.0.gamma_1" in raw.state else None,
        "scale_attn_inner": "eva.blocks.0.attn.norm.weight" in raw.state,
    }
    return Architecture("nnunetv2_ext.architectures.primus.Primus", arguments)


def _resenc(raw: RawCheckpoint) -> Architecture:
    stages = raw.indices("encoder.stages.")
    first = [raw.shape(f"encoder.stages.{stage}.blocks.0.conv1.conv.weight") for stage in stages]
    return unet_arguments(
        3,
        conv_bias="encoder.stem.convs.0.conv.bias" in raw.state,
        class_path=f"{_STOCK}ResidualEncoderUNet",
        n_stages=len(stages),
        features_per_stage=[shape[0] for shape in first],
        kernel_sizes=[list(shape[2:]) for shape in first],
        strides=[[1, 1, 1], *[[2, 2, 2]] * (len(stages) - 1)],
        n_blocks_per_stage=[len(raw.indices(f"encoder.stages.{stage}.blocks.")) for stage in stages],
        n_conv_per_stage_decoder=[1] * (len(stages) - 1),
    )


def _publication(raw: RawCheckpoint) -> Publication:
    citations = raw.content.get("citations")
    cited = [text for text in citations if isinstance(text, str)] if isinstance(citations, list | tuple) else []
    return Publication(
        name="a checkpoint of nnssl",
        source="https://github.com/MIC-DKFZ/nnssl",
        licence="CC BY 4.0 for those of OpenMind and the SSL3D challenge, CC BY-SA 4.0 for nnFoundation (commercial "
        "use allowed), otherwise that of the page it comes from",
        citation="; ".join(" ".join(text.split())[:1000] for text in cited[:20])
        or "Wald et al., An OpenMind for 3D medical vision self-supervised learning, ICCV 2025, "
        "https://arxiv.org/abs/2412.17041",
    )


FORMAT = CheckpointFormat(
    name="nnssl",
    description="nnssl, OpenMind (.pth with an adaptation plan)",
    recognises=_recognises,
    translate=_translate,
)
