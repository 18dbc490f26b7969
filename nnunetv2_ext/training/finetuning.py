"""From a pretrained checkpoint and a dataset to everything that a fine-tuning needs."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunetv2_ext.labels.dataset_json import read_dataset_json
from nnunetv2_ext.training.run_training import (
    TrainingOptions,
    TrainingRun,
    check_device,
    check_trainer_name,
    run_training,
)
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.files import read_json
from nnunetv2_ext.utilities.locks import output_lock
from nnunetv2_ext.utilities.paths import dataset_name, nnunet_folder

if TYPE_CHECKING:
    from nnunetv2_ext.checkpoints import Checkpoint

logger = logging.getLogger(__name__)

_TRAINER_OF_CLASS = {
    "PlainConvUNet": "FineTuneTrainer_unet",
    "StridedSkipResidualEncoderUNet": "FineTuneTrainer_resenc",
    "SwinUNETR": "FineTuneTrainer_swinunetr",
    "SegResNet": "SegResNetTrainer",
    "UNet": "MonaiUNetTrainer",
}
"""Last part of a network's class path -> trainer; other networks are built from the plans by ``FineTuneTrainer``."""


def trainer_for(checkpoint: Checkpoint, warm_up: bool = False) -> str:
    """Name of the trainer that fine-tunes the checkpoint's network.

    Args:
        checkpoint: From `read_checkpoint`.
        warm_up: Whether heads and network are warmed up first, where the trainer offers the choice.
    """
    if checkpoint.architecture.stunet_size is not None:
        return f"{checkpoint.fitting_trainer}_ft{'_warmup' if warm_up else ''}"
    return _TRAINER_OF_CLASS.get(checkpoint.architecture.class_path.rpartition(".")[2], "FineTuneTrainer")


def plans_name_for(checkpoint: Checkpoint) -> str:
    """Plans identifier under which the plans of the pretraining are adapted to a dataset."""
    name = (checkpoint.plans or {}).get("plans_name") or checkpoint.plans_template or checkpoint.format
    return "pretrained_" + re.sub(r"[^A-Za-z0-9_\-]+", "_", str(name))


def ensure_plans(checkpoint: Checkpoint, dataset: str, configuration: str, name: str) -> Path:
    """Makes plans for a dataset from those of the pretraining, unless they are there.

    Patch size, spacing, network and normalisation are those the weights were trained with.

    Args:
        checkpoint: From `read_checkpoint`.
        dataset: ID or name of a dataset.
        configuration: For example ``3d_fullres``.
        name: Plans identifier.

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
    path = nnunet_folder("nnUNet_preprocessed") / full_name / f"{name}.json"
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
    source: dict[str, Any]
    if checkpoint.plans is not None:
        source = checkpoint.plans
    elif checkpoint.plans_template is not None:
        source = load_template(checkpoint.plans_template)
    else:
        raise UserError(
            f"{checkpoint.path} brings no plans and its format has no published ones; make plans for the dataset with "
            "nnUNetv2_ext_plan and name them with -p."
        )
    plan_dataset(full_name, source, name=name, configurations=[configuration])
    planned = read_json(path)["configurations"][configuration]
    logger.info(
        "Plans for %s were made from the pretraining: patch size %s, spacing %s mm (z, y, x), normalisation %s; "
        "written to %s.",
        full_name,
        planned["patch_size"],
        planned["spacing"],
        ", ".join(planned["normalization_schemes"]),
        path,
    )
    return path


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
    preprocess_dataset(
        convert_dataset_name_to_id(plans_file.parent.name),
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
        **run_arguments: Further attributes of `TrainingRun`.

    Raises:
        UserError: Dataset, checkpoint and trainer do not fit together.
    """
    from nnunetv2_ext.checkpoints import check_class_mapping, read_checkpoint
    from nnunetv2_ext.training.trainers.base import fresh_start_is_allowed

    options = options or TrainingOptions()
    nnunet_folder("nnUNet_results")
    check_device(run_arguments.get("device", "cuda"), run_arguments.get("num_gpus", 1))
    full_name = dataset_name(dataset)
    checkpoint = read_checkpoint(pretrained_weights)
    for note in checkpoint.notes:
        logger.info(note)
    if class_mapping:
        # Before the dataset is planned and preprocessed.
        check_class_mapping(checkpoint, class_mapping, _labels_of(full_name))
    if configuration == "2d" and checkpoint.architecture.dimensions == 3:
        # Plans for it could be made, and the dataset preprocessed, all in vain.
        raise UserError(
            f"Expected a 3D configuration, such as 3d_fullres, for {checkpoint.describe()}, but got 2d; fine-tune a 2D "
            "network with it."
        )
    warm_up = options.warmup_heads is not None or options.warmup_network is not None
    trainer = trainer or trainer_for(checkpoint, warm_up)
    check_trainer_name(trainer)
    plans = plans or plans_name_for(checkpoint)
    # The folds of a cross-validation may start at the same time; the first one makes what all of them need.
    with output_lock(nnunet_folder("nnUNet_preprocessed") / full_name, inside=True, wait=True):
        plans_file = ensure_plans(checkpoint, full_name, configuration, plans)
        ensure_preprocessed(plans_file, configuration, fold, num_processes, show_progress)
    run = TrainingRun(
        full_name,
        configuration,
        fold,
        trainer,
        plans,
        pretrained_weights,
        options=options,
        class_mapping=class_mapping,
        **run_arguments,
    )
    if run.only_validate or (run.continue_training and not fresh_start_is_allowed()):
        # The weights come from the fine-tuning's own checkpoint.
        run = dataclasses.replace(run, pretrained_weights=None, class_mapping=None)
    logger.info(
        "Fine-tuning %s on %s, fold %s, with %s and the plans %s.",
        checkpoint.describe(),
        full_name,
        fold,
        trainer,
        plans,
    )
    run_training(run)


def _labels_of(full_name: str) -> dict[str, Any]:
    """``labels`` of a dataset, from nnU-Net's raw folder or, where that is not there, from what was preprocessed."""
    files = [nnunet_folder(variable) / full_name / "dataset.json" for variable in ("nnUNet_raw", "nnUNet_preprocessed")]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        raise UserError(f"Expected a dataset.json of {full_name} at {files[0]} or {files[1]}, but found neither.")
    labels: dict[str, Any] = read_dataset_json(file)["labels"]
    return labels
