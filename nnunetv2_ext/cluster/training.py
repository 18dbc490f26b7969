"""A training as one process, one process per GPU of this machine, or one of the ranks that torchrun or srun start."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch

from nnunetv2_ext import __version__
from nnunetv2_ext.cluster.distributed import device_of, only_rank_0_speaks, process_group
from nnunetv2_ext.cluster.meeting import Meeting
from nnunetv2_ext.cluster.ranks import find_ranks
from nnunetv2_ext.cluster.several_gpus import train_on_gpus
from nnunetv2_ext.dataset_conversion.splits import SPLITS_FILE
from nnunetv2_ext.training.checks import check_run, restarted
from nnunetv2_ext.training.run_training import TrainingRun, run_training, train_checked
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.files import require_writable
from nnunetv2_ext.utilities.paths import nnunet_folder

logger = logging.getLogger(__name__)


def train(run: TrainingRun) -> None:
    """Trains and validates, together with the other ranks where there are some.

    A run that torchrun or Slurm have started again goes on from its last checkpoint, if there is one.

    Raises:
        UserError: The run is not possible, the ranks do not fit together, or one of them is lost.
        SystemExit: The training stopped before its end.
    """
    ranks = find_ranks(os.environ)
    if ranks.size > 1:
        if run.num_gpus not in (1, ranks.size):
            raise UserError(
                f"Expected -num_gpus to be left out where torchrun or srun start the ranks, {ranks.size} here, but got "
                f"{run.num_gpus}."
            )
        with only_rank_0_speaks(ranks), Meeting(ranks, run.timeout_minutes) as meeting:
            _train_as_rank(run, meeting)
    elif run.num_gpus > 1:
        check_run(restarted(run) if ranks.restarts else run, run.num_gpus)
        train_on_gpus(run.num_gpus, train, run)
    else:
        if ranks.note:
            logger.warning(ranks.note)
        run_training(restarted(run) if ranks.restarts else run)


def _train_as_rank(run: TrainingRun, meeting: Meeting) -> None:
    ranks = meeting.ranks
    device = meeting.together(lambda: device_of(ranks, run.device))[ranks.rank]
    _require_equal(meeting, _facts(run))
    _require_shared_results(meeting)
    if any(meeting.exchange(ranks.restarts)):
        run = restarted(run)
    _require_equal(meeting, meeting.together(lambda: _digests(run, ranks.size))[ranks.rank])
    with process_group(meeting, torch.device(device)):
        train_checked(dataclasses.replace(run, device=device))


def _facts(run: TrainingRun) -> dict[str, str]:
    """What the ranks must have in common before anything is read."""
    versions = {name: importlib.metadata.version(name) for name in ("nnunetv2", "torch", "batchgeneratorsv2")}
    arguments = {name: str(value) for name, value in dataclasses.asdict(run).items()}
    return {**arguments, **versions, "nnunetv2-ext": __version__}


def _digests(run: TrainingRun, ranks: int) -> dict[str, str]:
    """Checks the run and tells plans, folds, data and the checkpoint to go on from in a few characters each."""
    checked = check_run(run, ranks)
    folder = checked.data.parent
    # nnU-Net unpacks into .npy where it trains.
    entries = (entry for entry in os.scandir(checked.data) if not entry.name.endswith(".npy"))
    files = sorted((entry.name, entry.stat().st_size) for entry in entries if not entry.name.startswith("."))
    splits = folder / SPLITS_FILE
    texts = {
        "plans": (folder / f"{run.plans}.json").read_bytes() + (folder / "dataset.json").read_bytes(),
        "folds": splits.read_bytes() if splits.is_file() else b"",
        "preprocessed data (names and sizes of files)": json.dumps(files).encode(),
    }
    digests = {name: hashlib.sha256(text).hexdigest()[:12] for name, text in texts.items()}
    return {**digests, "checkpoint": checked.checkpoint.name if checked.checkpoint else "none"}


def _require_equal(meeting: Meeting, facts: Mapping[str, str]) -> None:
    """Checks that all ranks have the same of everything.

    Raises:
        UserError: One has not.
    """
    first, *others = meeting.exchange(facts)
    for rank, found in enumerate(others, 1):
        if differing := [name for name in first if found[name] != first[name]]:
            name = differing[0]
            raise UserError(
                f"Expected the same {name} in all ranks, but {meeting.name(rank)} has {found[name]} and "
                f"{meeting.name(0)} has {first[name]}; make them equal (trainings that do not belong together are "
                "started one by one)."
            )


def _require_shared_results(meeting: Meeting) -> None:
    """Checks that all ranks write into one folder: nnU-Net's summary would leave out cases without a word.

    Raises:
        UserError: They do not.
    """
    meeting.together(lambda: require_writable(nnunet_folder("nnUNet_results")))
    results = nnunet_folder("nnUNet_results")
    with tempfile.NamedTemporaryFile(dir=results, prefix=".ranks.") as probe:
        name = meeting.exchange(Path(probe.name).name)[0]
        seen = meeting.exchange((results / name).exists())
    if not all(seen):
        blind = meeting.name(seen.index(False))
        raise UserError(
            f"Expected nnUNet_results to be one folder that all ranks share, but {blind} does not see in {results} "
            "what rank 0 writes there; set it to a folder on a file system of all machines."
        )
