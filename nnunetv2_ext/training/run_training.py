"""Runs one training with options that nnU-Net's own command does not have."""

from __future__ import annotations

import dataclasses
import logging
import multiprocessing
import os
import shutil
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnunetv2_ext.checkpoints.safe_loading import load_torch_file
from nnunetv2_ext.labels.dataset_json import image_channels
from nnunetv2_ext.training.checks import REPLACED, check_run
from nnunetv2_ext.training.options import RECORD, TrainingOptions, restore_options
from nnunetv2_ext.training.whole_files import whole_files
from nnunetv2_ext.training.workers import workers_looked_after
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.files import read_json, write_json
from nnunetv2_ext.utilities.locks import output_lock
from nnunetv2_ext.utilities.validation import anything, list_of, mapping_of

logger = logging.getLogger(__name__)


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
    timeout_minutes: float = 30
    """How long ranks wait for each other."""
    options: TrainingOptions = field(default_factory=TrainingOptions)
    class_mapping: Mapping[str, str] | None = None
    """Class of the dataset to the class of the pretrained weights that its head starts from, where names differ."""
    transfer: str | None = None
    """Part of the pretrained weights to start from: ``"encoder"``, ``"backbone"`` or, by default, ``"all"``."""
    stem: str | None = None
    """Of pretrained weights with a stem per dataset, the one to start from; by default one with as many channels."""


def run_training(run: TrainingRun) -> None:
    """Trains and validates in this process as ``nnUNetv2_train`` does, with the options applied.

    Raises:
        UserError: Dataset, plans, trainer or device are not there, or the arguments contradict each other.
    """
    check_run(run)
    import torch

    torch.set_num_threads(multiprocessing.cpu_count() if run.device == "cpu" else 1)
    train_checked(run)


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
    if trainer.is_ddp:
        # nnU-Net takes the GPU of the rank's number, which other nodes do not have, even where CPUs are asked for.
        trainer.device = torch.device(run.device)
        if trainer.device.type == "cpu":
            trainer.grad_scaler = None
    trainer.disable_checkpointing = run.disable_checkpointing
    run.options.apply(trainer)
    return trainer


def train_checked(run: TrainingRun) -> None:
    """Trains and validates in this process, one of several where it is in a process group."""
    trainer = make_trainer(run)
    # The other ranks of a training in several processes write nothing.
    lock = output_lock(trainer.output_folder, inside=True) if trainer.local_rank == 0 else nullcontext()
    with lock, whole_files():
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
    _require_equal_epochs(trainer)
    if trainer.local_rank == 0 and not run.only_validate:
        _record(run, Path(trainer.output_folder))
    if torch.cuda.is_available():
        torch.backends.cudnn.deterministic = run.options.seed is not None
        torch.backends.cudnn.benchmark = run.options.seed is None
    with workers_looked_after(trainer):
        if not run.only_validate:
            trainer.run_training()
        if run.validate_best:
            if trainer.is_ddp:
                # Rank 0 may still be writing it.
                torch.distributed.barrier()
            trainer.load_checkpoint(os.path.join(trainer.output_folder, "checkpoint_best.pth"))
        trainer.perform_actual_validation(run.npz)
    if trainer.local_rank == 0 and not run.only_validate:
        shutil.rmtree(folder / REPLACED, ignore_errors=True)


def _require_equal_epochs(trainer: Any) -> None:
    """Checks that all ranks go on at the same place.

    Raises:
        UserError: They do not.
    """
    from torch import distributed

    if not trainer.is_ddp:
        return
    places: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(places, (trainer.current_epoch, len(getattr(trainer, "train_outputs", None) or ())))
    for rank, (epoch, step) in enumerate(places):
        if places[rank] != places[0]:
            raise UserError(
                f"Expected all ranks to go on in the same epoch, but rank {rank} would in epoch {epoch} after step "
                f"{step}, and rank 0 in epoch {places[0][0]} after step {places[0][1]}; start all of them again with "
                "--c."
            )


def _set_aside(fold_folder: Path) -> None:
    """Makes room for a training in place of another one, whose results stay until the new ones are complete."""
    from nnunetv2_ext.training.trainers.base import CHECKPOINTS

    replaced = fold_folder / REPLACED
    # Tells a run that is started again that what is there is its own.
    replaced.mkdir(exist_ok=True)
    # What an interrupted run had set aside is the last complete training.
    keeps = not (replaced / CHECKPOINTS[0]).is_file()
    for path in (fold_folder / name for name in (*CHECKPOINTS, "validation")):
        if path.exists() and keeps:
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
