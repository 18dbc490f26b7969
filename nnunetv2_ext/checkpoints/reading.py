"""Reads any supported checkpoint safely and says what network it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from nnunetv2_ext.checkpoints.checkpoint import Checkpoint
from nnunetv2_ext.checkpoints.dataset_json import dataset_json_of, labels_of, with_labels
from nnunetv2_ext.checkpoints.formats import FORMATS, multitalent_v2
from nnunetv2_ext.checkpoints.formats.base import Translation
from nnunetv2_ext.checkpoints.plans import check_plans, first_configuration, resolve_configuration
from nnunetv2_ext.checkpoints.plans_v1 import normalization_from_v1, plans_from_v1
from nnunetv2_ext.checkpoints.raw import METADATA_KEY, RawCheckpoint, open_checkpoint
from nnunetv2_ext.checkpoints.shapes import PLANS
from nnunetv2_ext.labels.channels import channel_names
from nnunetv2_ext.labels.label_order import LabelOrder
from nnunetv2_ext.resources import resource_folder
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.files import atomic_path, read_json


def read_checkpoint(
    path: Path | str,
    *,
    fold: int | str | None = None,
    plans: Mapping[str, Any] | Path | str | None = None,
    configuration: str | None = None,
    labels: Mapping[str, Any] | None = None,
    dataset: str | int | None = None,
) -> Checkpoint:
    """Reads a checkpoint of any supported format; nothing in the file is executed.

    Formats (`nnunetv2_ext.checkpoints.formats.FORMATS`): nnU-Net v2 ``.pth`` and model folders; STU-Net ``.model``
    with or without the ``.model.pkl`` beside it; MultiTalent's U-Net and ResEnc (nnU-Net v1); ``model.pt`` of MONAI
    bundles; MultiTalent for nnU-Net v2; MedNeXt; SuPreM; CT-FM; VISTA3D; nnssl (OpenMind); ``.safetensors``. Sizes are
    inferred from the tensors, strides from the plans beside the file, else from the published default.

    Args:
        path: File, fold folder or model folder.
        fold: Which fold of a model folder; the first by default.
        plans: nnU-Net v2 plans, or their path, instead of those in or beside the file.
        configuration: Configuration of the plans instead of the one that the file names.
        labels: ``labels`` of a dataset.json instead of those that are known (with ``background``).
        dataset: Of a network with a head per dataset, the network of this one alone: its ID, such as ``"003"`` or
            ``"351_0"``, or the name of the source. By default one network with all heads.

    Returns:
        The checkpoint, all tensors on the CPU.

    Raises:
        UserError: There is no such file; it is truncated, no checkpoint or carries code; its network is unknown; its
            plans name a class outside the packages of networks, or one of a library that is not installed; the labels
            do not fit the number of outputs.
    """
    raw = open_checkpoint(path, fold)
    if plans is not None:
        raw.plans = dict(plans) if isinstance(plans, Mapping) else read_json(plans, PLANS)
    if configuration is not None:
        raw.configuration = configuration
    if raw.plans is not None:
        check_plans(raw.plans, raw.path, to_run=False)
    found = next(((entry, part) for part in raw.unwrapped() for entry in FORMATS if entry.recognises(part)), None)
    if found is None:
        raise UserError(
            f"The weights in {raw.path} (first name: {next(iter(raw.state))!r}) belong to no known format "
            f"({'; '.join(entry.description for entry in FORMATS)}); give the plans that name the network."
        )
    checkpoint_format, raw = found
    raw.dataset = dataset
    if dataset is not None and checkpoint_format.name != multitalent_v2.FORMAT.name:
        raise UserError(
            f"Expected a network with a head per dataset in {raw.path}, to choose that of {str(dataset)!r:.100}, but "
            f"found {checkpoint_format.name}; leave the dataset out."
        )
    try:
        translation = checkpoint_format.translate(raw)
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        # Names or plans that begin as one of the formats and then break off.
        raise UserError(
            f"{raw.path} looks like {checkpoint_format.name} but is incomplete ({type(error).__name__}: {error})."
        ) from error
    if labels is not None and "heads" in translation.architecture.arguments:
        raise UserError(
            f"Expected no labels for {raw.path}, whose heads have classes each; name them in a dataset.json per head, "
            f"such as {next(iter(translation.architecture.arguments['heads']))}_dataset.json, beside the file."
        )
    # Now, before anybody prepares data for a network that cannot be built.
    translation.architecture.require_libraries()
    checkpoint = Checkpoint(
        path=raw.path,
        format=checkpoint_format.name,
        network_state=translation.state,
        architecture=translation.architecture,
        input_channels=translation.input_channels,
        num_classes=translation.num_classes,
        trainer_name=raw.content.get("trainer_name"),
        plans_template=translation.plans_template,
        preprocessing_profile=translation.preprocessing_profile,
        notes=translation.notes,
        head_plans=translation.head_plans,
        absent=translation.absent,
        publication=translation.publication,
        orientation=translation.orientation,
        inference_allowed_mirroring_axes=_mirroring_axes(raw, translation),
    )
    _add_plans(checkpoint, raw, translation)
    _add_labels(checkpoint, raw, translation, labels)
    return checkpoint


def write_safetensors(checkpoint: Checkpoint, path: Path | str) -> None:
    """Writes a checkpoint as ``.safetensors``: tensors without code, everything else as JSON in the header.

    Args:
        checkpoint: What to write.
        path: Target; replaced atomically.

    Raises:
        UserError: The checkpoint is a part of a network.
    """
    from safetensors.torch import save_file

    checkpoint.require_heads()
    metadata = {
        "format": checkpoint.format,
        "architecture": checkpoint.architecture.to_plans(),
        "input_channels": checkpoint.input_channels,
        "num_classes": checkpoint.num_classes,
        "plans": checkpoint.plans,
        "configuration": checkpoint.configuration,
        "dataset_json": checkpoint.dataset_json,
        "labels": checkpoint.labels,
        "trainer_name": checkpoint.trainer_name,
        "inference_allowed_mirroring_axes": checkpoint.inference_allowed_mirroring_axes,
    }
    tensors = {name: tensor.contiguous() for name, tensor in checkpoint.network_state.items()}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, {METADATA_KEY: json.dumps(metadata)})


def _mirroring_axes(raw: RawCheckpoint, translation: Translation) -> tuple[int, ...] | None:
    if "inference_allowed_mirroring_axes" in raw.content:
        axes = raw.content["inference_allowed_mirroring_axes"]
        return None if axes is None else tuple(int(axis) for axis in axes)
    if translation.preprocessing_profile is not None:
        return None  # a MONAI bundle, whose inference does not mirror
    # nnU-Net v1 mirrored along every axis, and so did all published networks.
    return tuple(range(translation.architecture.dimensions))


def _add_plans(checkpoint: Checkpoint, raw: RawCheckpoint, translation: Translation) -> None:
    entry = translation.architecture.to_plans()
    plans = raw.plans if translation.plans is None else translation.plans
    if plans is not None:
        checkpoint.plans = deepcopy(plans)
        checkpoint.configuration = raw.configuration or first_configuration(plans)
        configuration = resolve_configuration(plans, checkpoint.configuration)
        # Trainers may build another network than the plans name; here the plans say what the weights are.
        checkpoint.plans["configurations"][checkpoint.configuration]["architecture"] = entry
        checkpoint.normalization = _normalization(plans, configuration)
        return
    if raw.plans_v1 is not None:
        checkpoint.plans, checkpoint.configuration = plans_from_v1(raw.plans_v1, raw.stage, entry)
        checkpoint.plans["dataset_name"] = raw.dataset_v1 or checkpoint.format
        checkpoint.normalization = normalization_from_v1(raw.plans_v1)
        return
    checkpoint.configuration = "2d" if translation.architecture.dimensions == 2 else "3d_fullres"
    if translation.plans_template is not None and checkpoint.configuration == "3d_fullres":
        template = read_json(resource_folder("plans") / f"{translation.plans_template}.json")
        published = template["configurations"][checkpoint.configuration]
        published["architecture"] = entry
        # Named after the pretraining, as the plans of a trained model are.
        checkpoint.plans = {
            **template,
            "dataset_name": translation.plans_template,
            "plans_name": translation.plans_template,
        }
        checkpoint.normalization = _normalization(checkpoint.plans, published)


def _normalization(plans: Mapping[str, Any], configuration: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "normalization_schemes": configuration.get("normalization_schemes"),
        "use_mask_for_norm": configuration.get("use_mask_for_norm"),
        "foreground_intensity_properties_per_channel": plans.get("foreground_intensity_properties_per_channel"),
    }


def _add_labels(
    checkpoint: Checkpoint, raw: RawCheckpoint, translation: Translation, labels: Mapping[str, Any] | None
) -> None:
    dataset_json = raw.dataset_json if translation.dataset_json is None else translation.dataset_json
    checkpoint.dataset_json = deepcopy(dataset_json)
    if labels is not None:
        checkpoint.labels = dict(labels)
        checkpoint.dataset_json = None if dataset_json is None else with_labels(dataset_json, labels)
    elif dataset_json is not None:
        checkpoint.labels = dataset_json.get("labels")
    elif isinstance(raw.content.get("labels"), Mapping):
        checkpoint.labels = dict(raw.content["labels"])
    elif translation.label_order is not None:
        _add_published_labels(checkpoint, translation.label_order, translation.sigmoid)
    if checkpoint.labels is not None and len(channel_names(checkpoint.labels)) != checkpoint.num_classes:
        raise UserError(
            f"The labels name {len(channel_names(checkpoint.labels))} outputs, but the network in {raw.path} has "
            f"{checkpoint.num_classes}; give the labels that it was trained with."
        )


def _add_published_labels(checkpoint: Checkpoint, label_order: str, sigmoid: bool) -> None:
    """Labels, and for networks of several sources the whole dataset.json, from a label order of the package."""
    order = LabelOrder.read(label_order)
    checkpoint.labels = labels_of(order, sigmoid)
    checkpoint.dataset_json = dataset_json_of(order, checkpoint.input_channels, sigmoid)
