"""Runs one training with options that nnU-Net's own command does not have."""

from __future__ import annotations

import dataclasses
import logging
import multiprocessing
import os
import random
import shlex
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunetv2_ext.labels.dataset_json import check_outputs, read_dataset_json
from nnunetv2_ext.training.workers import workers_looked_after
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.files import read_json, write_json
from nnunetv2_ext.utilities.locks import output_lock
from nnunetv2_ext.utilities.paths import dataset_name, nnunet_folder
from nnunetv2_ext.utilities.validation import anything, list_of, mapping_of

logger = logging.getLogger(__name__)

OPTIONS_FILE = "training_options.json"
"""Written into the output folder of a training; says what was set on the command line."""


@dataclass(frozen=True)
class TrainingOptions:
    """Hyper-parameters given on the command line; ``None`` leaves what the trainer or the plans say.

    Attributes:
        num_epochs: Epochs of the training (of its last phase for trainers that warm up).
        initial_lr: First learning rate.
        weight_decay: Factor of the L2 penalty.
        batch_size: Patches per batch over all GPUs.
        iterations_per_epoch: Training batches per epoch.
        val_iterations_per_epoch: Validation batches per epoch.
        oversample_foreground: Fraction of a batch whose patches are centred on foreground.
        warmup_heads: Epochs with frozen backbone, for trainers that warm up.
        warmup_network: Epochs with a rising rate, for trainers that warm up.
        save_every: Epochs between writes of the latest checkpoint.
        seed: Seed of Python, numpy and torch. Data loading in several processes stays non-deterministic.
        num_workers: Processes for data loading and augmentation; 0 loads in the main process.
    """

    num_epochs: int | None = None
    initial_lr: float | None = None
    weight_decay: float | None = None
    batch_size: int | None = None
    iterations_per_epoch: int | None = None
    val_iterations_per_epoch: int | None = None
    oversample_foreground: float | None = None
    warmup_heads: int | None = None
    warmup_network: int | None = None
    save_every: int | None = None
    seed: int | None = None
    num_workers: int | None = None

    def given(self) -> dict[str, Any]:
        """The options that were set."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}


# Option -> attribute of nnU-Net's trainer.
_TRAINER_ATTRIBUTES = {
    "num_epochs": "num_epochs",
    "initial_lr": "initial_lr",
    "weight_decay": "weight_decay",
    "iterations_per_epoch": "num_iterations_per_epoch",
    "val_iterations_per_epoch": "num_val_iterations_per_epoch",
    "oversample_foreground": "oversample_foreground_percent",
    "warmup_heads": "warmup_heads",
    "warmup_network": "warmup_network",
    "save_every": "save_every",
}


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
    device: str = "cuda"
    options: TrainingOptions = TrainingOptions()
    class_mapping: Mapping[str, str] | None = None
    """Class of the dataset to the class of the pretrained weights that its head starts from, where names differ."""


def run_training(run: TrainingRun) -> None:
    """Trains and validates as ``nnUNetv2_train`` does, with the options applied.

    Raises:
        UserError: Dataset, plans, trainer or device are not there, or the arguments contradict each other.
    """
    _check(run)
    if run.options.num_workers is not None:
        os.environ["nnUNet_n_proc_DA"] = str(run.options.num_workers)
    if run.num_gpus > 1:
        import torch.multiprocessing
        from nnunetv2.run.run_training import find_free_network_port

        os.environ["MASTER_ADDR"] = "localhost"
        os.environ.setdefault("MASTER_PORT", str(find_free_network_port()))
        ranks = torch.multiprocessing.spawn(_run_distributed, args=(run,), nprocs=run.num_gpus, join=False)
        try:
            while not ranks.join():
                pass
        finally:
            for process in ranks.processes:
                process.terminate()
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
    apply_options(trainer, run.options)
    return trainer


def apply_options(trainer: Any, options: TrainingOptions) -> None:
    """Sets the options on a trainer that is not initialised yet.

    Raises:
        UserError: The trainer has no such setting.
    """
    given = options.given()
    for option, attribute in _TRAINER_ATTRIBUTES.items():
        if option not in given:
            continue
        if not hasattr(trainer, attribute):
            raise UserError(
                f"{type(trainer).__name__} has no setting for --{option}; use a trainer that has it (for example a "
                "*_warmup trainer), or leave the option out."
            )
        setattr(trainer, attribute, given[option])
    if "batch_size" in given:
        trainer.configuration_manager.configuration["batch_size"] = given["batch_size"]
    if "seed" in given:
        _seed_everything(given["seed"])


def _run_distributed(rank: int, run: TrainingRun) -> None:
    import torch
    from nnunetv2.run.run_training import cleanup_ddp, setup_ddp

    setup_ddp(rank, run.num_gpus)
    torch.cuda.set_device(torch.device("cuda", rank))
    # Every rank needs its own random patches, and the same ones in the next run.
    seed = run.options.seed
    options = dataclasses.replace(run.options, seed=None if seed is None else seed + rank)
    try:
        _train(dataclasses.replace(run, options=options))
    finally:
        cleanup_ddp()


def _train(run: TrainingRun) -> None:
    trainer = make_trainer(run)
    # The other ranks of a training on several GPUs write nothing.
    lock = output_lock(trainer.output_folder, inside=True) if trainer.local_rank == 0 else nullcontext()
    with lock:
        _train_alone(run, trainer)


def _train_alone(run: TrainingRun, trainer: Any) -> None:
    import torch
    from nnunetv2.run.run_training import maybe_load_checkpoint

    from nnunetv2_ext.training.trainers.base import has_checkpoint_to_continue_from

    continues = run.continue_training and has_checkpoint_to_continue_from(trainer.output_folder)
    if run.pretrained_weights is not None and not continues:
        initialize_from_pretrained(trainer, run.pretrained_weights, run.class_mapping)
    maybe_load_checkpoint(trainer, run.continue_training, run.only_validate)
    if trainer.local_rank == 0 and not run.only_validate:
        _record(run, Path(trainer.output_folder))
    if torch.cuda.is_available():
        torch.backends.cudnn.deterministic = False
        torch.backends.cudnn.benchmark = True
    with workers_looked_after(trainer):
        if not run.only_validate:
            trainer.run_training()
        if run.validate_best:
            trainer.load_checkpoint(os.path.join(trainer.output_folder, "checkpoint_best.pth"))
        trainer.perform_actual_validation(run.npz)


def initialize_from_pretrained(trainer: Any, source: str, class_mapping: Mapping[str, str] | None = None) -> None:
    """Initialises the trainer's network from a checkpoint of any known format; the report goes to the training log.

    Args:
        trainer: A trainer of nnU-Net or of this package.
        source: Checkpoint or model folder.
        class_mapping: Class of the dataset to class of the checkpoint, where their names differ.
    """
    from nnunetv2_ext.checkpoints import read_checkpoint, transfer_weights

    trainer.initialize()
    report = transfer_weights(
        trainer.network,
        read_checkpoint(source),
        target_classes=trainer.dataset_json["labels"],
        class_mapping=class_mapping,
    )
    trainer.print_to_log_file(f"\n{report}\n", add_timestamp=False)


def _record(run: TrainingRun, output_folder: Path) -> None:
    """Adds this run to the list of runs in the output folder, so that a result can be traced to its settings."""
    from nnunetv2_ext import __version__

    file = output_folder / OPTIONS_FILE
    runs = read_json(file, list_of(mapping_of(anything))) if file.is_file() and run.continue_training else []
    runs.append({"nnunetv2_ext": __version__, **dataclasses.asdict(run)})
    write_json(runs, file)


def _check(run: TrainingRun) -> None:
    from nnunetv2_ext.checkpoints.plans import check_plans, check_plans_names, trained_configuration
    from nnunetv2_ext.dataset_conversion.splits import bring_splits, refuse_too_few_cases
    from nnunetv2_ext.training.trainers.base import fresh_start_is_allowed

    if run.continue_training and run.only_validate:
        raise UserError("--c continues a training and --val only validates one; give one of the two.")
    if run.continue_training and run.pretrained_weights is not None and not fresh_start_is_allowed():
        raise UserError("-pretrained_weights starts a training and --c continues one; give one of the two.")
    if run.class_mapping and run.pretrained_weights is None:
        raise UserError("--class_mapping says which pretrained heads to start from; give -pretrained_weights, too.")
    if run.validate_best and run.disable_checkpointing:
        raise UserError("--val_best needs what --disable_checkpointing does not write; give one of the two.")
    nnunet_folder("nnUNet_results")
    folder = nnunet_folder("nnUNet_preprocessed") / dataset_name(run.dataset, "nnUNet_preprocessed")
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
    check_trainer_name(run.trainer)
    check_device(run.device, run.num_gpus)


def check_trainer_name(name: str) -> None:
    """Raises a `UserError` with similar names when nnU-Net cannot find the trainer."""
    import contextlib
    import difflib
    import io

    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

    from nnunetv2_ext.training import trainers

    try:
        # nnU-Net prints every module it looks into.
        with contextlib.redirect_stdout(io.StringIO()):
            recursive_find_trainer_class_by_name(name)
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


def _seed_everything(seed: int) -> None:
    import numpy as np
    import torch

    random.seed(seed)
    # nnU-Net's augmentation draws from numpy's global generator.
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)
