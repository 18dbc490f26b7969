"""What plans and checkpoints must look like before anything looks into them."""

from __future__ import annotations

from nnunetv2_ext.architectures.multi_head import HEAD
from nnunetv2_ext.labels.dataset_json import LABELS, MOST_CLASSES, dataset_json_shape
from nnunetv2_ext.utilities.validation import (
    anything,
    either,
    entries,
    flag,
    integer,
    list_of,
    mapping_of,
    nullable,
    number,
    text,
)

_EDGE = integer(1, 65536)
_EDGES = list_of(_EDGE, 2, 3)
_PER_STAGE = list_of(integer(1, 1024), 1, 32)
_KWARGS = nullable(
    entries(
        {
            **dict.fromkeys(("eps", "momentum", "negative_slope"), number()),
            **dict.fromkeys(("affine", "inplace", "track_running_stats"), flag),
            "p": number(0, 1),
        }
    )
)
_HEAD_NAME = text(HEAD, "the ID of a dataset of at least three digits")
# nnU-Net, dynamic_network_architectures and MONAI give the same names to the same things.
_ARGUMENTS = entries(
    {
        "n_stages": integer(1, 32),
        **dict.fromkeys(("features_per_stage", "channels"), either(_EDGE, list_of(_EDGE, 1, 32))),
        **dict.fromkeys(("conv_op", "norm", "norm_op", "dropout_op", "nonlin"), nullable(text())),
        **dict.fromkeys(
            ("kernel_sizes", "strides"),
            either(integer(1, 1024), list_of(either(integer(1, 1024), list_of(integer(1, 1024), 1, 3)), 1, 32)),
        ),
        **dict.fromkeys(
            ("n_blocks_per_stage", "n_conv_per_stage", "n_conv_per_stage_decoder"), either(_PER_STAGE, integer(1, 1024))
        ),
        **dict.fromkeys(("blocks_down", "blocks_up"), _PER_STAGE),
        **dict.fromkeys(("init_filters", "feature_size"), _EDGE),
        "num_res_units": integer(0, 1024),
        "levels": integer(1, 32),
        **dict.fromkeys(("embed_dim", "eva_depth", "eva_numheads", "encoder_eva_numheads"), integer(1, 65536)),
        **dict.fromkeys(("input_shape", "patch_embed_size"), list_of(_EDGE, 3, 3)),
        "conv_bias": flag,
        "spatial_dims": integer(2, 3),
        **dict.fromkeys(("norm_op_kwargs", "dropout_op_kwargs", "nonlin_kwargs"), _KWARGS),
        "heads": mapping_of(integer(2, MOST_CLASSES), _HEAD_NAME, 1, MOST_CLASSES),
        "stems": nullable(mapping_of(integer(1, 1024), _HEAD_NAME, 1, MOST_CLASSES)),
    }
)
ARCHITECTURE = entries(
    {"network_class_name": text(), "arch_kwargs": _ARGUMENTS, "_kw_requires_import": list_of(text())},
    needed=("network_class_name", "arch_kwargs"),
)
_RESAMPLING = entries(
    {"is_seg": flag, "order": integer(0, 5), "order_z": integer(0, 5), "force_separate_z": nullable(flag)}
)
_CONFIGURATION = {
    **dict.fromkeys(("inherits_from", "data_identifier", "preprocessor_name"), text()),
    "batch_size": integer(1, 65536),
    **dict.fromkeys(("patch_size", "patch_size_divisible_by"), _EDGES),
    # Templates may leave it to the dataset.
    "spacing": nullable(list_of(number(1e-6, 1000), 2, 3)),
    "median_image_size_in_voxels": list_of(number(0), 2, 3),
    "normalization_schemes": list_of(text(), 1, 1024),
    "use_mask_for_norm": list_of(flag, 1, 1024),
    **{f"resampling_fn_{of}": text() for of in ("data", "seg", "probabilities")},
    **{f"resampling_fn_{of}_kwargs": _RESAMPLING for of in ("data", "seg", "probabilities")},
    "architecture": ARCHITECTURE,
    "batch_dice": flag,
    "previous_stage": nullable(text()),
    "next_stage": nullable(either(text(), list_of(text()))),
}
#: What even a template states.
_PLANNED = ("patch_size", "batch_size", "normalization_schemes", "architecture")
PLANNED_CONFIGURATION = entries(_CONFIGURATION, needed=_PLANNED)
_FUNCTIONS = (f"resampling_fn_{of}{what}" for of in ("data", "seg", "probabilities") for what in ("", "_kwargs"))
#: A configuration that leaves nothing open.
TRAINED_CONFIGURATION = entries(
    {**_CONFIGURATION, "spacing": list_of(number(1e-6, 1000), 2, 3)},
    needed=(*_PLANNED, "spacing", "use_mask_for_norm", *_FUNCTIONS),
)
_AXES = list_of(integer(0, 2), 3, 3)
_INTENSITIES = dict.fromkeys(("mean", "std", "percentile_00_5", "percentile_99_5", "median", "min", "max"), number())
#: Intensities of a channel, in plans and fingerprints.
STATISTICS = entries(_INTENSITIES, needed=("mean", "std"))
#: Those that CT is normalised with.
CT_STATISTICS = entries(_INTENSITIES, needed=tuple(_INTENSITIES)[:4])
_PLANS = {
    **dict.fromkeys(("plans_name", "dataset_name", "description", "source"), nullable(text())),
    **dict.fromkeys(("image_reader_writer", "label_manager", "experiment_planner_used"), text()),
    **dict.fromkeys(("transpose_forward", "transpose_backward"), _AXES),
    "foreground_intensity_properties_per_channel": mapping_of(STATISTICS, text(r"\d{1,4}", "a channel's number")),
    "configurations": mapping_of(entries(_CONFIGURATION), text(), at_least=1, at_most=100),
}
PLANS = entries(_PLANS, needed=("configurations",))
#: Plans that a network was or is to be trained with.
TRAINED_PLANS = entries(
    {**_PLANS, "plans_name": text(), "dataset_name": text()},
    needed=("plans_name", "dataset_name", "transpose_forward", "transpose_backward", "image_reader_writer"),
)


#: What nnssl says of the network that its weights are for.
ADAPTATION_PLAN = entries(
    {
        "architecture_plans": entries(
            {"arch_class_name": text(), "arch_kwargs": nullable(_ARGUMENTS)}, needed=("arch_class_name",)
        ),
        "pretrain_plan": entries(
            {
                "configurations": mapping_of(
                    entries(
                        {
                            "spacing": nullable(list_of(number(1e-6, 1000), 3, 3)),
                            "patch_size": nullable(list_of(_EDGE, 3, 3)),
                            "normalization_schemes": list_of(text(), 1, 1024),
                        }
                    ),
                    text(),
                    at_least=1,
                    at_most=100,
                )
            },
            needed=("configurations",),
        ),
        "pretrain_num_input_channels": integer(1, 1024),
        "recommended_downstream_patchsize": list_of(_EDGE, 3, 3),
        **dict.fromkeys(("key_to_encoder", "key_to_stem"), text()),
    },
    needed=(
        "architecture_plans",
        "pretrain_plan",
        "pretrain_num_input_channels",
        "recommended_downstream_patchsize",
        "key_to_encoder",
        "key_to_stem",
    ),
)


_CHECKPOINT = {
    "trainer_name": nullable(text()),
    "init_args": entries({"configuration": text(), "dataset_json": nullable(dataset_json_shape())}),
    "inference_allowed_mirroring_axes": nullable(list_of(integer(0, 2), 0, 3)),
    # What this package writes into safetensors files.
    "architecture": nullable(ARCHITECTURE),
    "input_channels": integer(1, 1024),
    "num_classes": integer(1, MOST_CLASSES),
    "configuration": nullable(text()),
    "dataset_json": nullable(dataset_json_shape()),
    "labels": nullable(LABELS),
}
#: What any checkpoint may hold beside its weights; its plans are for `check_plans` to judge.
CHECKPOINT = entries(_CHECKPOINT)
_MODEL = {
    "network_weights": mapping_of(anything, text()),
    "trainer_name": text(),
    "init_args": entries({"configuration": text()}, needed=("configuration",)),
}
#: What nnU-Net predicts with.
MODEL_CHECKPOINT = entries({**_CHECKPOINT, **_MODEL}, needed=tuple(_MODEL))
_TRAINING = {
    "network_weights": mapping_of(anything, text()),
    "init_args": mapping_of(anything),
    "current_epoch": integer(0),
    "logging": mapping_of(anything),
    "_best_ema": nullable(number()),
    "optimizer_state": mapping_of(anything),
    "grad_scaler_state": nullable(mapping_of(anything)),
}
#: What a training continues from.
TRAINING_CHECKPOINT = entries({**_CHECKPOINT, **_TRAINING}, needed=tuple(_TRAINING))
