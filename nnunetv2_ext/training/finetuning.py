"""From a pretrained checkpoint and a dataset to everything that a fine-tuning needs."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunetv2_ext.labels.channels import has_regions
from nnunetv2_ext.labels.dataset_json import image_channels, kind_of_dataset, read_dataset_json
from nnunetv2_ext.training.checks import check_device, check_trainer_name
from nnunetv2_ext.training.options import TrainingOptions
from nnunetv2_ext.training.run_training import TrainingRun, run_training
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.files import disk_errors_named, read_json, require_writable, write_json
from nnunetv2_ext.utilities.locks import output_lock
from nnunetv2_ext.utilities.paths import dataset_name, nnunet_folder

if TYPE_CHECKING:
    from nnunetv2_ext.checkpoints import Checkpoint

logger = logging.getLogger(__name__)

#: Entry of plans that are made from those of a pretraining: a digest of these.
_MADE_FROM = "made_from"


def trainer_for(checkpoint: Checkpoint, dataset_json: Mapping[str, Any], warm_up: bool = False) -> str:
    """Name of the trainer that fine-tunes the checkpoint's network on a dataset.

    Args:
        checkpoint: From `read_checkpoint`.
        dataset_json: The dataset's.
        warm_up: Whether heads and network are warmed up first, where the trainer offers the choice.
    """
    family = checkpoint.architecture.family
    kind = kind_of_dataset(dataset_json)
    if kind != "plain":
        return family.trainers[kind]
    if has_regions(dataset_json["labels"]) and "regions" in family.trainers:
        return family.trainers["regions"]
    return family.trainers["finetuning"] + ("_warmup" if warm_up and family.size else "")


def plans_name_for(checkpoint: Checkpoint) -> str:
    """Plans identifier under which the plans of the pretraining are adapted to a dataset."""
    name = (checkpoint.plans or {}).get("plans_name") or checkpoint.plans_template or checkpoint.format
    return "pretrained_" + re.sub(r"[^A-Za-z0-9_\-]+", "_", str(name))


def ensure_plans(
    checkpoint: Checkpoint, dataset: str, configuration: str, name: str | None = None, adapt: str = "pretraining"
) -> Path:
    """Makes plans for a dataset from those of the pretraining, unless they are there.

    The network is that of the weights; so are patch size, spacing and normalisation unless ``adapt`` says otherwise.

    Args:
        checkpoint: From `read_checkpoint`.
        dataset: ID or name of a dataset.
        configuration: For example ``3d_fullres``.
        name: Plans identifier; by default that of the pretraining, told apart where another one had the same.
        adapt: ``"pretraining"``, or ``"dataset"`` for its median spacing, its normalisation and patches no larger than
            its median image.

    Returns:
        Path of the plans file.

    Raises:
        UserError: The checkpoint brings no plans and its format has no published ones, or the plans that are there
            lack the configuration.
    """
    from nnunetv2_ext.checkpoints.plans import check_plans
    from nnunetv2_ext.experiment_planning.plan_dataset import plan_dataset
    from nnunetv2_ext.experiment_planning.templates import load_template

    full_name = dataset_name(dataset)
    folder = nnunet_folder("nnUNet_preprocessed") / full_name
    source: dict[str, Any] | None = checkpoint.plans
    if source is None and checkpoint.plans_template is not None:
        source = load_template(checkpoint.plans_template)
    to_dataset = adapt == "dataset"
    made_from = json.dumps([source, adapt] if to_dataset else source, sort_keys=True)
    digest = hashlib.sha256(made_from.encode()).hexdigest()[:8]
    path = folder / f"{name or plans_name_for(checkpoint) + '_dataset' * to_dataset}.json"
    if name is None and path.is_file() and source is not None:
        plans = read_json(path)
        check_plans(plans, path)
        if not _are_made_from(plans, source, digest):
            path = folder / f"{path.stem}_{digest}.json"
    if path.is_file():
        plans = read_json(path)
        check_plans(plans, path)
        known = plans["configurations"]
        if configuration not in known:
            raise UserError(
                f"Expected the configuration {configuration} in the plans {path}, but they have {', '.join(known)}; "
                "fine-tune one of these, or make plans that have it with nnUNetv2_ext_plan and name them with -p."
            )
        logger.info("Using the plans %s.", path)
        return path
    if source is None:
        raise UserError(
            f"{checkpoint.path} brings no plans and its format has no published ones; make plans for the dataset with "
            "nnUNetv2_ext_plan and name them with -p."
        )
    plan_dataset(full_name, source, name=path.stem, configurations=[configuration], to_dataset=to_dataset)
    plans = read_json(path)
    write_json({**plans, _MADE_FROM: digest}, path)
    planned = plans["configurations"][configuration]
    logger.info(
        "Plans for %s were made from the pretraining, adapted to the %s: patch size %s, spacing %s mm (z, y, x), "
        "normalisation %s; written to %s.",
        full_name,
        adapt,
        planned["patch_size"],
        planned["spacing"],
        ", ".join(planned["normalization_schemes"]),
        path,
    )
    return path


def _are_made_from(plans: dict[str, Any], source: dict[str, Any], digest: str) -> bool:
    """Whether plans are those of a pretraining; where they do not say, as those of version 0.1.0, by what they hold."""
    from nnunetv2_ext.checkpoints.plans import resolve_configuration

    if _MADE_FROM in plans:
        return bool(plans[_MADE_FROM] == digest)
    for name in plans["configurations"]:
        if name not in source["configurations"]:
            return False
        ours, theirs = (resolve_configuration(each, name) for each in (plans, source))
        if any(ours.get(key) != theirs.get(key) for key in ("spacing", "patch_size", "architecture")):
            return False
        statistics = [each.get("foreground_intensity_properties_per_channel", {}).get("0") for each in (plans, source)]
        if "CTNormalization" in ours["normalization_schemes"] and statistics[0] != statistics[1]:
            return False
    return True


def ensure_preprocessed(
    plans_file: Path, configuration: str, fold: int | str, num_processes: int, show_progress: bool = True
) -> None:
    """Preprocesses the dataset of a plans file with nnU-Net, unless all its cases are there.

    Args:
        plans_file: Inside the dataset's folder in ``nnUNet_preprocessed``.
        configuration: For example ``3d_fullres``.
        fold: The fold that is to be trained.
        num_processes: Processes that preprocess.
        show_progress: Whether nnU-Net shows its progress bar.

    Raises:
        UserError: The plans have names that are none, there are neither raw nor preprocessed cases, or too few.
    """
    from nnunetv2.experiment_planning.plan_and_preprocess_api import preprocess_dataset
    from nnunetv2.utilities.dataset_name_id_conversion import convert_dataset_name_to_id
    from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

    from nnunetv2_ext.checkpoints.plans import check_plans_names
    from nnunetv2_ext.dataset_conversion.splits import bring_splits, refuse_too_few_cases

    plans = read_json(plans_file)
    check_plans_names(plans, plans_file)
    data = plans_file.parent / plans["configurations"][configuration]["data_identifier"]
    raw = nnunet_folder("nnUNet_raw") / plans_file.parent.name
    # The properties of a case are written last.
    done = {file.stem for file in data.glob("*.pkl")}
    if raw.is_dir():
        cases = set(get_filenames_of_train_images_and_targets(str(raw)))
        bring_splits(raw.name)
        refuse_too_few_cases(fold, len(cases), plans_file.parent)
        missing = cases - done
    elif done:
        missing = set()
    else:
        raise UserError(f"Expected preprocessed data in {data} or raw data in {raw}, but there is neither.")
    if not missing:
        return
    logger.info("Preprocessing %s for %s.", plans_file.parent.name, plans["plans_name"])
    # nnU-Net's workers say that they ended, not that the disk is full.
    folder = plans_file.parent
    with tempfile.NamedTemporaryFile(dir=folder) as probe, disk_errors_named(folder, Path(probe.name)):
        preprocess_dataset(
            convert_dataset_name_to_id(folder.name),
            plans_identifier=plans["plans_name"],
            configurations=[configuration],
            num_processes=[num_processes],
            verbose=False,
            show_progress_bar=show_progress,
        )


def finetune(
    *,
    dataset: str,
    configuration: str,
    fold: int | str,
    pretrained_weights: str,
    trainer: str | None = None,
    plans: str | None = None,
    num_processes: int = 2,
    show_progress: bool = True,
    options: TrainingOptions | None = None,
    class_mapping: Mapping[str, str] | None = None,
    adapt: str | None = None,
    stem: str | None = None,
    train: Callable[[TrainingRun], None] = run_training,
    **run_arguments: Any,
) -> None:
    """Fine-tunes a pretrained network on a dataset.

    Args:
        dataset: ID or name of a dataset.
        configuration: For example ``3d_fullres``.
        fold: Fold of the cross-validation or ``"all"``.
        pretrained_weights: Checkpoint or model folder of any known format.
        trainer: Name of a trainer; by default the one that fits the checkpoint.
        plans: Plans identifier; by default plans made from those of the pretraining.
        num_processes: Processes that preprocess.
        show_progress: Whether progress bars are shown.
        options: Hyper-parameters.
        class_mapping: Class of the dataset to the class of the checkpoint whose heads it starts from, where their
            names differ.
        adapt: See `ensure_plans`.
        stem: Of a checkpoint with a stem per dataset, the one to start from; by default one with as many channels.
        train: What trains; by default in this process.
        **run_arguments: Further attributes of `TrainingRun`.

    Raises:
        UserError: Dataset, checkpoint and trainer do not fit together.
    """
    from nnunetv2_ext.checkpoints import check_class_mapping, read_checkpoint
    from nnunetv2_ext.checkpoints.multi_head import as_one_network
    from nnunetv2_ext.training.trainers.base import fresh_start_is_allowed

    options = options or TrainingOptions()
    for variable in ("nnUNet_results", "nnUNet_preprocessed"):
        require_writable(nnunet_folder(variable))
    check_device(run_arguments.get("device", "cuda"), run_arguments.get("num_gpus", 1))
    full_name = dataset_name(dataset)
    dataset_json = _dataset_json_of(full_name)
    checkpoint = as_one_network(
        read_checkpoint(pretrained_weights),
        channels=len(image_channels(dataset_json)),
        stem=stem,
        full=[*(class_mapping or {}).values(), *dataset_json["labels"]],
    )
    for note in (*checkpoint.notes, *checkpoint.terms()):
        logger.info(note)
    if class_mapping:
        # Before the dataset is planned and preprocessed.
        check_class_mapping(checkpoint, class_mapping, dataset_json["labels"])
    if configuration == "2d" and checkpoint.architecture.dimensions == 3:
        # Plans for it could be made, and the dataset preprocessed, all in vain.
        raise UserError(
            f"Expected a 3D configuration, such as 3d_fullres, for {checkpoint.describe()}, but got 2d; fine-tune a 2D "
            "network with it."
        )
    warm_up = options.warmup_heads is not None or options.warmup_network is not None
    trainer = trainer or trainer_for(checkpoint, dataset_json, warm_up)
    check_trainer_name(trainer)
    # The folds of a cross-validation may start at the same time; the first one makes what all of them need.
    with output_lock(nnunet_folder("nnUNet_preprocessed") / full_name, inside=True, wait=True):
        plans_file = ensure_plans(checkpoint, full_name, configuration, plans, adapt or "pretraining")
        ensure_preprocessed(plans_file, configuration, fold, num_processes, show_progress)
    run = TrainingRun(
        full_name,
        configuration,
        fold,
        trainer,
        plans_file.stem,
        pretrained_weights,
        options=options,
        class_mapping=class_mapping,
        stem=stem,
        **run_arguments,
    )
    if run.only_validate or (run.continue_training and not fresh_start_is_allowed()):
        # The weights come from the fine-tuning's own checkpoint.
        run = dataclasses.replace(run, pretrained_weights=None, class_mapping=None, transfer=None, stem=None)
    logger.info(
        "Fine-tuning %s on %s, fold %s, with %s and the plans %s.",
        checkpoint.describe(),
        full_name,
        fold,
        trainer,
        plans_file.stem,
    )
    train(run)


def _dataset_json_of(full_name: str) -> dict[str, Any]:
    """From nnU-Net's raw folder or, where that is not there, from what was preprocessed."""
    variables = [variable for variable in ("nnUNet_raw", "nnUNet_preprocessed") if os.environ.get(variable, "").strip()]
    files = [nnunet_folder(variable) / full_name / "dataset.json" for variable in variables]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        raise UserError(f"Expected a dataset.json of {full_name} at {' or '.join(map(str, files))}, but found none.")
    return read_dataset_json(file)
