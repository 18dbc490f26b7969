"""Runs one training with options that nnU-Net's own command does not have."""

from __future__ import annotations

import dataclasses
import logging
import multiprocessing
import os
import shlex
import shutil
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnunetv2_ext.checkpoints.safe_loading import load_torch_file
from nnunetv2_ext.labels.dataset_json import check_outputs, image_channels, read_dataset_json
from nnunetv2_ext.training.options import RECORD, TrainingOptions, restore_options
from nnunetv2_ext.training.several_gpus import train_on_gpus
from nnunetv2_ext.training.workers import workers_looked_after
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.files import read_json, require_writable, write_json
from nnunetv2_ext.utilities.folders import refuse_overlap
from nnunetv2_ext.utilities.locks import output_lock
from nnunetv2_ext.utilities.paths import dataset_name, nnunet_folder
from nnunetv2_ext.utilities.validation import anything, list_of, mapping_of

logger = logging.getLogger(__name__)

_REPLACED = "replaced"


@dataclass(frozen=True)
class TrainingRun:
    """Everything that defines one run; picklable, so that it reaches the processes of distributed training.

    The attributes carry the names of ``nnUNetv2_train``'s arguments.
    """

    dataset: str
    configuration: str
    fold: int | str
    trainer: str = "nnUNetTrainer"
    plans: str = "nnUNetPlans"
    pretrained_weights: str | None = None
    num_gpus: int = 1
    npz: bool = False
    continue_training: bool = False
    only_validate: bool = False
    validate_best: bool = False
    disable_checkpointing: bool = False
    overwrite: bool = False
    device: str = "cuda"
    options: TrainingOptions = field(default_factory=TrainingOptions)
    class_mapping: Mapping[str, str] | None = None
    """Class of the dataset to the class of the pretrained weights that its head starts from, where names differ."""
    transfer: str | None = None
    """Part of the pretrained weights to start from: ``"encoder"``, ``"backbone"`` or, by default, ``"all"``."""
    stem: str | None = None
    """Of pretrained weights with a stem per dataset, the one to start from; by default one with as many channels."""


def run_training(run: TrainingRun) -> None:
    """Trains and validates as ``nnUNetv2_train`` does, with the options applied.

    Raises:
        UserError: Dataset, plans, trainer or device are not there, or the arguments contradict each other.
    """
    _check(run)
    if run.num_gpus > 1:
        train_on_gpus(run.num_gpus, _train, run)
        return
    import torch

    torch.set_num_threads(multiprocessing.cpu_count() if run.device == "cpu" else 1)
    _train(run)


def make_trainer(run: TrainingRun) -> Any:
    """Finds the trainer class, builds the trainer and applies the options; nothing is trained yet."""
    import torch
    from nnunetv2.run.run_training import get_trainer_from_args

    trainer = get_trainer_from_args(
        run.dataset,
        run.configuration,
        run.fold,
        run.trainer,
        run.plans,
        run.continue_training,
        torch.device(run.device),
    )
    trainer.disable_checkpointing = run.disable_checkpointing
    run.options.apply(trainer)
    return trainer


def _train(run: TrainingRun) -> None:
    trainer = make_trainer(run)
    # The other ranks of a training on several GPUs write nothing.
    lock = output_lock(trainer.output_folder, inside=True) if trainer.local_rank == 0 else nullcontext()
    with lock:
        _train_alone(run, trainer)


def _train_alone(run: TrainingRun, trainer: Any) -> None:
    import torch
    from nnunetv2.run.run_training import maybe_load_checkpoint

    from nnunetv2_ext.training.trainers.base import ExtTrainer, checkpoint_to_continue_from

    folder = Path(trainer.output_folder)
    checkpoint = checkpoint_to_continue_from(folder) if run.continue_training or run.only_validate else None
    if run.pretrained_weights is not None and checkpoint is None:
        initialize_from_pretrained(trainer, run.pretrained_weights, run.class_mapping, run.transfer, run.stem)
    if checkpoint is not None and not isinstance(trainer, ExtTrainer):
        # Trainers of this package do it themselves, for the sake of nnU-Net's own command.
        restore_options(trainer, load_torch_file(checkpoint, mmap=True))
    if run.overwrite and trainer.local_rank == 0:
        _set_aside(folder)
    maybe_load_checkpoint(trainer, run.continue_training, run.only_validate)
    if trainer.local_rank == 0 and not run.only_validate:
        _record(run, Path(trainer.output_folder))
    if torch.cuda.is_available():
        torch.backends.cudnn.deterministic = run.options.seed is not None
        torch.backends.cudnn.benchmark = run.options.seed is None
    with workers_looked_after(trainer):
        if not run.only_validate:
            trainer.run_training()
        if run.validate_best:
            trainer.load_checkpoint(os.path.join(trainer.output_folder, "checkpoint_best.pth"))
        trainer.perform_actual_validation(run.npz)
    if trainer.local_rank == 0 and not run.only_validate:
        shutil.rmtree(folder / _REPLACED, ignore_errors=True)


def _set_aside(fold_folder: Path) -> None:
    """Makes room for a training in place of another one, whose results stay until the new ones are complete."""
    from nnunetv2_ext.training.trainers.base import CHECKPOINTS

    replaced = fold_folder / _REPLACED
    # What an interrupted run had set aside is the last complete training.
    keeps = not (replaced / CHECKPOINTS[0]).is_file()
    for path in (fold_folder / name for name in (*CHECKPOINTS, "validation")):
        if path.exists() and keeps:
            replaced.mkdir(exist_ok=True)
            path.rename(replaced / path.name)
        elif path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def initialize_from_pretrained(
    trainer: Any,
    source: str,
    class_mapping: Mapping[str, str] | None = None,
    part: Any = None,
    stem: str | None = None,
) -> None:
    """Initialises the trainer's network from a checkpoint of any known format; the report goes to the training log.

    Args:
        trainer: A trainer of nnU-Net or of this package.
        source: Checkpoint or model folder.
        class_mapping: Class of the dataset to class of the checkpoint, where their names differ.
        part: See `transfer_weights`.
        stem: Of a checkpoint with a stem per dataset, the one to start from.
    """
    from nnunetv2_ext.architectures.multi_head import MultiHead
    from nnunetv2_ext.checkpoints import read_checkpoint, transfer_weights
    from nnunetv2_ext.checkpoints.multi_head import as_one_network, transfer_to_heads
    from nnunetv2_ext.labels.source_heads import source_heads

    trainer.initialize()
    checkpoint = read_checkpoint(source)
    network = getattr(trainer, "bare_network", trainer.network)
    if isinstance(network, MultiHead):
        heads = source_heads(trainer.partial_labels)
        reports = transfer_to_heads(
            network, checkpoint, heads, class_mapping=class_mapping, stem=stem, part=part or "all"
        )
        for name, of_head in zip(heads, reports, strict=True):
            trainer.print_to_log_file(f"\nHead of {name}: {of_head}\n", add_timestamp=False)
        return
    checkpoint = as_one_network(
        checkpoint,
        channels=trainer.num_input_channels,
        stem=stem,
        full=[*(class_mapping or {}).values(), *trainer.dataset_json["labels"]],
    )
    report = transfer_weights(
        trainer.network,
        checkpoint,
        target_classes=trainer.dataset_json["labels"],
        class_mapping=class_mapping,
        target_channels=image_channels(trainer.dataset_json),
        part=part or "all",
    )
    trainer.print_to_log_file(f"\n{report}\n", add_timestamp=False)


def _record(run: TrainingRun, output_folder: Path) -> None:
    """Adds this run to the list of runs in the output folder, so that a result can be traced to its settings."""
    from nnunetv2_ext import __version__

    file = output_folder / f"{RECORD}.json"
    runs = read_json(file, list_of(mapping_of(anything))) if file.is_file() and run.continue_training else []
    runs.append({"nnunetv2_ext": __version__, **dataclasses.asdict(run)})
    write_json(runs, file)


def _check(run: TrainingRun) -> None:
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
    _check_results(run, results / folder.name, plans["plans_name"], configuration)


def _check_results(run: TrainingRun, results: Path, plans_name: str, configuration: Mapping[str, Any]) -> None:
    """Looks at what is there of this fold, and of the configuration that it goes on from."""
    from nnunetv2_ext.checkpoints.raw import checkpoint_file
    from nnunetv2_ext.training.trainers.base import CHECKPOINTS, checkpoint_to_continue_from

    fold = results / f"{run.trainer}__{plans_name}__{run.configuration}" / f"fold_{run.fold}"
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
        predicted = results / f"{run.trainer}__{plans_name}__{previous}" / "predicted_next_stage" / run.configuration
        if not predicted.is_dir():
            raise UserError(
                f"{run.configuration} goes on from the predictions of {previous}, which are expected in {predicted}, "
                f"but there are none; train all folds of {previous} with the same trainer and plans first."
            )


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
    if num_gpus > 1 and (device != "cuda" or num_gpus > torch.cuda.device_count()):
        raise UserError(f"-num_gpus {num_gpus} expects as many GPUs, but torch finds {torch.cuda.device_count()}.")


def _keys(file: Path) -> set[str]:
    content = read_json(file)
    return set(content) if isinstance(content, dict) else set()
