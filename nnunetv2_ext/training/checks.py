"""Looks at what a training finds before it begins: arguments, dataset, plans, device, and what is there of its fold."""

from __future__ import annotations

import dataclasses
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunetv2_ext.labels.dataset_json import check_outputs, read_dataset_json
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.files import read_json, require_writable
from nnunetv2_ext.utilities.folders import refuse_overlap
from nnunetv2_ext.utilities.paths import dataset_name, nnunet_folder
from nnunetv2_ext.utilities.validation import entries, text

if TYPE_CHECKING:
    from nnunetv2_ext.training.run_training import TrainingRun

REPLACED = "replaced"
"""Folder inside that of a fold: the training in whose place ``--overwrite`` trains, until that is complete."""


@dataclass(frozen=True)
class CheckedRun:
    """What a run finds.

    Attributes:
        data: Folder of the preprocessed cases, inside that of the dataset.
        checkpoint: The one of the fold that is there, if one is.
    """

    data: Path
    checkpoint: Path | None


def check_run(run: TrainingRun, ranks: int = 1) -> CheckedRun:
    """Looks at everything that a run needs before it begins.

    Args:
        run: The run.
        ranks: In how many processes it trains.

    Raises:
        UserError: Something is missing, contradicts the rest, or does not fit the number of processes.
    """
    from nnunetv2_ext.checkpoints.plans import check_plans, check_plans_names, trained_configuration
    from nnunetv2_ext.dataset_conversion.splits import bring_splits, refuse_too_few_cases
    from nnunetv2_ext.training.trainers.base import fresh_start_is_allowed, refuse_other_kinds

    if run.continue_training + run.only_validate + run.overwrite > 1:
        raise UserError(
            "--c continues a training, --val validates and --overwrite replaces one; give one of the three."
        )
    if run.continue_training and run.pretrained_weights is not None and not fresh_start_is_allowed():
        raise UserError("-pretrained_weights starts a training and --c continues one; give one of the two.")
    for flag in ("class_mapping", "transfer", "stem"):
        if getattr(run, flag) and run.pretrained_weights is None:
            raise UserError(f"--{flag} says which pretrained weights to start from; give -pretrained_weights, too.")
    if run.class_mapping and run.transfer not in (None, "all"):
        raise UserError(
            f"--class_mapping pairs heads, which --transfer {run.transfer} leaves out; give one of the two."
        )
    if run.validate_best and run.disable_checkpointing:
        raise UserError("--val_best needs what --disable_checkpointing does not write; give one of the two.")
    results = nnunet_folder("nnUNet_results")
    require_writable(results)
    folder = nnunet_folder("nnUNet_preprocessed") / dataset_name(run.dataset, "nnUNet_preprocessed")
    if (results / folder.name).exists():
        require_writable(results / folder.name)
    plans_file = folder / f"{run.plans}.json"
    if not plans_file.is_file():
        known = sorted(file.stem for file in folder.glob("*.json") if "configurations" in _keys(file))
        raise UserError(
            f"Expected the plans {run.plans} in {folder}, but found {', '.join(known) or 'no plans'}; choose one with "
            "-p, or make them with nnUNetv2_ext_plan or nnUNetv2_plan_and_preprocess."
        )
    plans = read_json(plans_file)
    check_plans(plans, plans_file)
    check_plans_names(plans, plans_file)
    dataset_json = read_dataset_json(folder / "dataset.json", "file_ending")
    check_outputs(dataset_json, folder / "dataset.json")
    configuration = trained_configuration(plans, run.configuration, dataset_json, plans_file)
    data = folder / configuration.get("data_identifier", f"{run.plans}_{run.configuration}")
    if not data.is_dir():
        raise UserError(
            f"Expected preprocessed data in {data}, but there is none; run: nnUNetv2_preprocess -d {folder.name[7:10]} "
            f"-plans_name {shlex.quote(run.plans)} -c {run.configuration}"
        )
    bring_splits(folder.name)
    # Each case has its properties in a .pkl.
    refuse_too_few_cases(run.fold, len(list(data.glob("*.pkl"))), folder)
    refuse_other_kinds(check_trainer_name(run.trainer), dataset_json)
    check_device(run.device, run.num_gpus)
    checkpoint = _check_results(run, folder.name, plans["plans_name"], configuration)
    batch_size = run.options.batch_size or configuration["batch_size"]
    # A checkpoint remembers the batch size that it was given.
    if batch_size % ranks and (run.options.batch_size or checkpoint is None or run.overwrite):
        raise UserError(
            f"Expected a batch that {ranks} processes share evenly, but the batch size is {batch_size}, and the "
            f"gradient would not be that of one process; give --batch_size {ranks * max(1, round(batch_size / ranks))}."
        )
    return CheckedRun(data, checkpoint)


def _fold_folder(run: TrainingRun, dataset: str, plans_name: str) -> Path:
    trained = f"{run.trainer}__{plans_name}__{run.configuration}"
    return nnunet_folder("nnUNet_results") / dataset / trained / f"fold_{run.fold}"


def _check_results(run: TrainingRun, dataset: str, plans_name: str, configuration: Mapping[str, Any]) -> Path | None:
    """Looks at what is there of this fold, which it returns, and of the configuration that it goes on from."""
    from nnunetv2_ext.checkpoints.raw import checkpoint_file
    from nnunetv2_ext.training.trainers.base import CHECKPOINTS, checkpoint_to_continue_from

    fold = _fold_folder(run, dataset, plans_name)
    if run.pretrained_weights is not None:
        refuse_overlap([checkpoint_file(Path(run.pretrained_weights))], fold)
    found = checkpoint_to_continue_from(fold)
    if run.only_validate and (found is None or found.name != CHECKPOINTS[0]):
        raise UserError(f"--val expects a finished training in {fold}, but there is no {CHECKPOINTS[0]}; train first.")
    if found is not None and not (run.continue_training or run.only_validate or run.overwrite):
        raise UserError(
            f"Expected no training in {fold} yet, but there is {found.name}; go on with --c, or train anew with "
            "--overwrite."
        )
    if (previous := configuration.get("previous_stage")) is not None:
        previous_stage = _fold_folder(dataclasses.replace(run, configuration=previous), dataset, plans_name).parent
        predicted = previous_stage / "predicted_next_stage" / run.configuration
        if not predicted.is_dir():
            raise UserError(
                f"{run.configuration} goes on from the predictions of {previous}, which are expected in {predicted}, "
                f"but there are none; train all folds of {previous} with the same trainer and plans first."
            )
    return found


def check_trainer_name(name: str) -> type:
    """The trainer that nnU-Net finds; a `UserError` with similar names where it finds none."""
    import contextlib
    import difflib
    import io

    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

    from nnunetv2_ext.training import trainers

    try:
        # nnU-Net prints every module it looks into.
        with contextlib.redirect_stdout(io.StringIO()):
            found: type = recursive_find_trainer_class_by_name(name)
            return found
    except RuntimeError:
        known = [known for known in dir(trainers) if known.split("_")[0].endswith("Trainer")]
        similar = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        raise UserError(
            f"Expected the name of a trainer after -tr, but found none called {name}"
            f"{'; similar: ' + ', '.join(similar) if similar else ''}; nnUNetv2_ext_info trainers lists this package's."
        ) from None


def check_device(device: str, num_gpus: int = 1) -> None:
    """Raises a `UserError` when the device is not there."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("-device cuda expects an NVIDIA GPU, but torch finds none; use -device cpu.")
    if device == "mps" and not torch.backends.mps.is_available():
        raise UserError("-device mps expects an Apple GPU, but torch finds none; use -device cpu.")
    if num_gpus > 1 and device == "mps":
        raise UserError(f"-num_gpus {num_gpus} expects -device cuda or cpu, but got mps; leave one of the two out.")
    if num_gpus > 1 and device == "cuda" and num_gpus > torch.cuda.device_count():
        raise UserError(f"-num_gpus {num_gpus} expects as many GPUs, but torch finds {torch.cuda.device_count()}.")


def _keys(file: Path) -> set[str]:
    content = read_json(file)
    return set(content) if isinstance(content, dict) else set()


def restarted(run: TrainingRun) -> TrainingRun:
    """The run that goes on where its own first start has got to: what batch systems start again.

    It begins anew where that has left no checkpoint.
    """
    from nnunetv2_ext.training.trainers.base import ALLOW_FRESH_START

    folder = nnunet_folder("nnUNet_preprocessed") / dataset_name(run.dataset, "nnUNet_preprocessed")
    plans_name = read_json(folder / f"{run.plans}.json", entries({"plans_name": text()}))["plans_name"]
    if run.only_validate or (run.overwrite and not (_fold_folder(run, folder.name, plans_name) / REPLACED).is_dir()):
        return run
    os.environ[ALLOW_FRESH_START] = "1"
    return dataclasses.replace(run, continue_training=True, overwrite=False)
