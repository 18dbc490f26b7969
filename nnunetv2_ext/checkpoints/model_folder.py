"""Writes the folder of a trained nnU-Net v2 model from a checkpoint of any format."""

from __future__ import annotations

import logging
import re
from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

import nnunetv2_ext
from nnunetv2_ext.checkpoints.checkpoint import Checkpoint
from nnunetv2_ext.checkpoints.dataset_json import with_labels
from nnunetv2_ext.checkpoints.plans import check_plans_names, resolve_configuration
from nnunetv2_ext.checkpoints.plans_v1 import CONFIGURATION_DEFAULTS
from nnunetv2_ext.labels.channels import BACKGROUND, channel_names, has_regions
from nnunetv2_ext.labels.dataset_json import ORIENTATION
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.files import atomic_path, read_json, sha256_of, write_json
from nnunetv2_ext.utilities.folders import folder_under_construction
from nnunetv2_ext.utilities.locks import output_lock
from nnunetv2_ext.utilities.names import checked_ending, checked_name
from nnunetv2_ext.utilities.paths import refuse_used_id
from nnunetv2_ext.utilities.validation import anything, entries, mapping_of

logger = logging.getLogger(__name__)

CHECKPOINT_NAME = "checkpoint_final.pth"
PROVENANCE_NAME = "provenance.json"
#: How the published inference prepares images, where nnU-Net's plans cannot say it; read by nnUNetv2_ext_predict.
PROFILE_NAME = "preprocessing_profile.json"

_NO_STATISTICS = {"mean": 0.0, "std": 1.0, "median": 0.0, "min": 0.0, "max": 0.0,
                  "percentile_00_5": 0.0, "percentile_99_5": 0.0}  # fmt: skip


def write_model_folder(
    checkpoint: Checkpoint,
    results: Path | str,
    dataset: str,
    *,
    configuration: str | None = None,
    fold: int | str = 0,
    trainer: str | None = None,
    plans_name: str | None = None,
    source: str | None = None,
    orientation: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Writes ``<results>/<dataset>/<trainer>__<plans>__<configuration>`` so that stock nnU-Net predicts with it.

    The folder holds plans.json (and those of heads that have their own), dataset.json,
    ``fold_x/checkpoint_final.pth`` (readable with ``torch.load(weights_only=True)``) and provenance.json (file name,
    SHA-256, format, terms of the weights). It appears complete or not at all. A fold joins an existing folder of the
    same plans and labels. Networks with several heads are for ``nnUNetv2_ext_predict`` alone.

    Args:
        checkpoint: From `read_checkpoint`.
        results: nnU-Net's results folder.
        dataset: ``DatasetXXX_Name``.
        configuration: Name of the configuration; the checkpoint's by default.
        fold: Fold of the checkpoint: a number or ``"all"``.
        trainer: Trainer in the folder's name, which builds the network; `Checkpoint.fitting_trainer` by default.
        plans_name: Name of the plans; the checkpoint's by default.
        source: Where the file was published, for provenance.json.
        orientation: What x, y and z of the training's images ran towards, such as ``"RAS"``, for dataset.json and
            provenance.json; by default what the checkpoint's own dataset.json says, or what is published of it.
        overwrite: Replace an existing model folder, all its folds included.

    Returns:
        The model folder.

    Raises:
        UserError: Plans or labels are unknown or do not fit; the model or this fold of it exists; another dataset has
            the ID; ``results`` cannot be written.
    """
    if not re.fullmatch(r"Dataset\d{3}_.+", checked_name(dataset, "a dataset name such as Dataset101_Liver")):
        raise UserError(f"Expected a dataset name such as Dataset101_Liver, but got {dataset!r}.")
    refuse_used_id(dataset)
    checkpoint.require_heads()
    plans, configuration = plans_for_model_folder(checkpoint, dataset, configuration, plans_name)
    dataset_json = dataset_json_for_model_folder(checkpoint)
    if orientation is not None and checkpoint.preprocessing_profile is not None:
        raise UserError(
            f"Expected no --orientation for {checkpoint.path}: its own preparation turns images; leave it out."
        )
    if orientation := orientation or dataset_json.get(ORIENTATION) or checkpoint.orientation:
        dataset_json[ORIENTATION] = orientation
    checked_ending(dataset_json.get("file_ending"), checkpoint.path)
    trainer = trainer or checkpoint.fitting_trainer
    check_plans_names(plans, checkpoint.path)
    name = checked_name(f"{trainer}__{plans['plans_name']}__{configuration}", "the name of a model folder")
    if name.count("__") != 2:
        raise UserError(f"Expected '__' between trainer, plans and configuration alone, but got {name}; rename.")
    folder = Path(results) / dataset / name
    checked_name(str(fold), "a fold")
    with output_lock(folder):
        joins = folder.exists() and not overwrite
        if joins:
            _check_fold_can_join(folder, fold, plans, dataset_json)
        target = folder / f"fold_{fold}" if joins else folder
        with folder_under_construction(target, overwrite=overwrite, sources=[checkpoint.path]) as new:
            content = {
                # With every name of every tensor: stock nnU-Net loads strictly.
                "network_weights": checkpoint.build_network().state_dict(),
                "trainer_name": trainer,
                "init_args": {
                    "plans": plans,
                    "configuration": configuration,
                    "fold": fold,
                    "dataset_json": dataset_json,
                },
                "inference_allowed_mirroring_axes": checkpoint.inference_allowed_mirroring_axes,
            }
            record = {
                "source": source or checkpoint.path.name,
                "sha256": sha256_of(checkpoint.path),
                "format": checkpoint.format,
                "network": str(checkpoint.architecture),
                "imported_with": f"nnunetv2-ext {nnunetv2_ext.__version__}",
                "notes": checkpoint.notes,
                **({"image_orientation": orientation} if orientation else {}),
                **({"publication": asdict(checkpoint.publication)} if checkpoint.publication else {}),
            }
            new_fold = new if joins else new / f"fold_{fold}"
            with atomic_path(new_fold / CHECKPOINT_NAME) as temporary:
                torch.save(content, temporary)
            _write_traces_of_training(new_fold, checkpoint)
            if not joins:
                write_json(plans, new / "plans.json")
                for name, own_plans in _plans_of_heads(checkpoint, dataset, configuration, plans["plans_name"]).items():
                    write_json(own_plans, new / head_plans_name(name))
                write_json(dataset_json, new / "dataset.json")
                write_json(_no_fingerprint(plans), new / "dataset_fingerprint.json")
                if checkpoint.preprocessing_profile is not None:
                    write_json(checkpoint.preprocessing_profile, new / PROFILE_NAME)
                write_json({"folds": {str(fold): record}}, new / PROVENANCE_NAME)
        if joins:
            shape = entries({"folds": mapping_of(anything)}, needed=("folds",))
            provenance = read_json(folder / PROVENANCE_NAME, shape)
            write_json({**provenance, "folds": {**provenance["folds"], str(fold): record}}, folder / PROVENANCE_NAME)
    return folder


def head_plans_name(head: str) -> str:
    """File of a model folder with the plans that images for this head are preprocessed by."""
    return f"{head}_plans.json"


def _plans_of_heads(
    checkpoint: Checkpoint, dataset: str, configuration: str, plans_name: str
) -> dict[str, dict[str, Any]]:
    stems = checkpoint.architecture.arguments.get("stems") or {}
    complete = {}
    for head, plans in checkpoint.head_plans.items():
        own = replace(checkpoint, plans=plans, input_channels=stems.get(head, checkpoint.input_channels))
        complete[head], _ = plans_for_model_folder(own, dataset, configuration, plans_name)
        check_plans_names(complete[head], checkpoint.path)
    return complete


def plans_for_model_folder(
    checkpoint: Checkpoint, dataset: str, configuration: str | None = None, plans_name: str | None = None
) -> tuple[dict[str, Any], str]:
    """The checkpoint's plans with all that a model folder needs, and the name of the configuration.

    Raises:
        UserError: The plans or the configuration are unknown, or CT intensity statistics are missing.
    """
    if checkpoint.plans is None:
        raise UserError(
            f"The plans of {checkpoint.path} are not known; put its plans beside it or name a plan template or a plans "
            "file with --plans."
        )
    configuration = configuration or checkpoint.configuration
    plans = deepcopy(checkpoint.plans)
    entry = resolve_configuration(plans, configuration)
    # The folder has this configuration alone.
    entry.pop("next_stage", None)
    if len(entry["patch_size"]) != checkpoint.architecture.dimensions:
        raise UserError(
            f"The network is {checkpoint.architecture.dimensions}D, but the configuration {configuration} has the "
            f"patch size {entry['patch_size']}; choose another with -c."
        )
    if not entry.get("spacing"):
        raise UserError(
            f"The configuration {configuration} of the plans leaves the spacing open, but a trained network has one; "
            "name plans that state it with --plans."
        )
    for key in ("normalization_schemes", "use_mask_for_norm"):
        # Plan templates may state one value for all channels.
        if len(entry.get(key) or ()) == 1:
            entry[key] = entry[key] * checkpoint.input_channels
    # Trainers that obey plans build what these weights are.
    entry["architecture"] = checkpoint.architecture.to_plans()
    plans["plans_name"] = plans_name or plans.get("plans_name") or "nnUNetPlans"
    entry = {
        **CONFIGURATION_DEFAULTS,
        "data_identifier": f"{plans['plans_name']}_{configuration}",
        "median_image_size_in_voxels": [float(edge) for edge in entry["patch_size"]],
        "use_mask_for_norm": [False] * len(entry["normalization_schemes"]),
        **entry,
    }
    plans["configurations"] = {configuration: entry}
    plans["dataset_name"] = dataset
    axes_left_out = 3 - len(entry["patch_size"])
    defaults = {
        "original_median_spacing_after_transp": [1.0] * axes_left_out + list(entry["spacing"]),
        "original_median_shape_after_transp": [1] * axes_left_out + list(entry["patch_size"]),
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {},
    }
    plans = {**defaults, **plans}
    statistics = plans["foreground_intensity_properties_per_channel"]
    for channel, scheme in enumerate(entry["normalization_schemes"]):
        if scheme == "CTNormalization" and str(channel) not in statistics:
            raise UserError(
                f"CT normalisation of channel {channel} needs the intensity statistics of the pretraining, which the "
                "plans do not have; name plans that do with --plans."
            )
        # nnU-Net hands some to every normaliser, also to those that do not look at them.
        statistics.setdefault(str(channel), _NO_STATISTICS)
    for name in ("description", "source"):
        plans.pop(name, None)
    return plans, configuration


def dataset_json_for_model_folder(checkpoint: Checkpoint) -> dict[str, Any]:
    """The checkpoint's dataset.json, or one made from its labels; unknown classes are numbered.

    Raises:
        UserError: Softmax labels are not consecutive.
    """
    labels = checkpoint.labels
    if labels is None:
        logger.warning(
            "The classes of %s are not known by name and are called class_1 ... class_%d; name them with --labels.",
            checkpoint.path.name,
            checkpoint.num_classes - 1,
        )
        labels = {BACKGROUND: 0, **{f"class_{index}": index for index in range(1, checkpoint.num_classes)}}
    names = channel_names(labels)
    if not has_regions(labels):
        values = [labels[name] for name in names]
        if values != list(range(len(values))):
            raise UserError(
                f"Expected consecutive integers for the {len(values)} outputs of a softmax network, but the labels go "
                f"up to {max(values)}; give the labels in the order of the network's outputs."
            )
    if checkpoint.dataset_json is not None:
        return {"file_ending": ".nii.gz", "numTraining": 0, **checkpoint.dataset_json}
    schemes = (checkpoint.normalization or {}).get("normalization_schemes") or []
    return with_labels(
        {
            "channel_names": {
                str(channel): "CT" if schemes[channel : channel + 1] == ["CTNormalization"] else f"channel_{channel}"
                for channel in range(checkpoint.input_channels)
            },
            "labels": {},
            "numTraining": 0,
            "file_ending": ".nii.gz",
        },
        labels,
    )


def _write_traces_of_training(folder: Path, checkpoint: Checkpoint) -> None:
    """What ``nnUNetv2_export_model_to_zip`` looks for in a fold: the curves of a training and its validation's scores.

    There are none of a training elsewhere, and that is what the two files say.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 2))
    figure.text(0.5, 0.5, f"Imported ({checkpoint.format}): no curves of the training.", ha="center", va="center")
    figure.savefig(folder / "progress.png")
    write_json({"foreground_mean": {}, "mean": {}, "metric_per_case": []}, folder / "validation" / "summary.json")


def _no_fingerprint(plans: dict[str, Any]) -> dict[str, Any]:
    """A dataset_fingerprint.json, which the export wants too, of a dataset that is not there."""
    key = "foreground_intensity_properties_per_channel"
    return {"spacings": [], "shapes_after_crop": [], "median_relative_size_after_cropping": 1.0, key: plans[key]}


def _check_fold_can_join(folder: Path, fold: int | str, plans: dict[str, Any], dataset_json: dict[str, Any]) -> None:
    if (folder / f"fold_{fold}").exists():
        raise UserError(
            f"{folder / f'fold_{fold}'} exists already; choose another fold (-f) or dataset name, or pass --overwrite."
        )
    same = (folder / PROVENANCE_NAME).is_file() and (
        read_json(folder / "plans.json") == plans and read_json(folder / "dataset.json") == dataset_json
    )
    if not same:
        raise UserError(
            f"{folder} exists already and holds another model; choose another dataset name or pass --overwrite."
        )
