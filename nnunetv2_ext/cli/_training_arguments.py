"""Flags that the training commands share."""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nnunetv2_ext.utilities.errors import UserError

if TYPE_CHECKING:
    from nnunetv2_ext.training.run_training import TrainingOptions


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the positional arguments and flags of ``nnUNetv2_train``."""
    parser.add_argument("dataset_name_or_id", help="dataset name or ID to train with")
    parser.add_argument("configuration", help="configuration to train, for example 3d_fullres")
    parser.add_argument("fold", type=_fold, help="fold of the cross-validation (0 to 4) or 'all'")
    parser.add_argument("-num_gpus", type=int, default=1, help="number of GPUs")
    parser.add_argument("--npz", action="store_true", help="save the probabilities of the final validation")
    parser.add_argument(
        "--c", action="store_true", help="continue from the latest checkpoint; an error if there is none"
    )
    parser.add_argument(
        "--c_or_start", action="store_true", help="continue from the latest checkpoint if there is one, else start anew"
    )
    parser.add_argument("--val", action="store_true", help="only run the final validation")
    parser.add_argument("--val_best", action="store_true", help="validate checkpoint_best instead of checkpoint_final")
    parser.add_argument("--disable_checkpointing", action="store_true", help="write no checkpoints")
    parser.add_argument("-device", choices=("cuda", "cpu", "mps"), default="cuda", help="where to train")


def add_class_mapping_argument(parser: argparse.ArgumentParser) -> None:
    """Adds the flag that pairs classes of the dataset with classes of the pretrained weights."""
    parser.add_argument(
        "--class_mapping",
        nargs="+",
        action="extend",
        default=[],
        metavar="TARGET=SOURCE",
        help="start the heads of class TARGET from those of the pretrained class SOURCE; only needed where the names "
        "differ (liver=msd_liver/liver); one SOURCE may serve several TARGETs; may be repeated",
    )


def add_option_arguments(parser: argparse.ArgumentParser, *, warmup: bool = False) -> None:
    """Adds the hyper-parameters that can be set on the command line."""
    group = parser.add_argument_group("hyper-parameters (default: what the trainer and the plans say)")
    # SUPPRESS keeps "(default: None)" out of the help and absent options out of the namespace.
    absent = argparse.SUPPRESS
    group.add_argument("--num_epochs", type=_positive, default=absent, help="epochs")
    group.add_argument("--initial_lr", type=float, default=absent, help="first learning rate")
    group.add_argument("--weight_decay", type=float, default=absent, help="factor of the L2 penalty")
    group.add_argument("--batch_size", type=_positive, default=absent, help="patches per batch, over all GPUs")
    group.add_argument("--iterations_per_epoch", type=_positive, default=absent, help="training batches per epoch")
    group.add_argument("--val_iterations_per_epoch", type=_positive, default=absent, help="validation batches")
    group.add_argument(
        "--oversample_foreground", type=_fraction, default=absent, help="fraction of patches centred on foreground"
    )
    group.add_argument("--save_every", type=_positive, default=absent, help="epochs between checkpoints")
    group.add_argument("--seed", type=int, default=absent, help="seed of all random numbers of the main process")
    group.add_argument("--num_workers", type=int, default=absent, help="processes that load and augment data")
    if warmup:
        group.add_argument(
            "--warmup_heads", type=_not_negative, default=absent, help="epochs that train the heads alone at first"
        )
        group.add_argument(
            "--warmup_network", type=_not_negative, default=absent, help="epochs with a rising rate that follow"
        )


def run_from(arguments: argparse.Namespace) -> dict[str, Any]:
    """What `add_run_arguments` and `add_option_arguments` collected, under the names of `TrainingRun`."""
    if arguments.c_or_start:
        # Only here: the trainers bring torch and nnU-Net along.
        from nnunetv2_ext.training.trainers.base import ALLOW_FRESH_START

        os.environ[ALLOW_FRESH_START] = "1"
    return {
        "dataset": arguments.dataset_name_or_id,
        "configuration": arguments.configuration,
        "fold": arguments.fold,
        "pretrained_weights": arguments.pretrained_weights,
        "class_mapping": _class_mapping(arguments.class_mapping),
        "num_gpus": arguments.num_gpus,
        "npz": arguments.npz,
        "continue_training": arguments.c or arguments.c_or_start,
        "only_validate": arguments.val,
        "validate_best": arguments.val_best,
        "disable_checkpointing": arguments.disable_checkpointing,
        "device": arguments.device,
        "options": options_from(arguments),
    }


def options_from(arguments: argparse.Namespace) -> TrainingOptions:
    """The hyper-parameters that were given."""
    from nnunetv2_ext.training.run_training import TrainingOptions

    names = {field.name for field in dataclasses.fields(TrainingOptions)}
    return TrainingOptions(**{name: value for name, value in vars(arguments).items() if name in names})


def _class_mapping(pairs: Sequence[str]) -> dict[str, str] | None:
    """``["liver=msd_liver/liver"]`` -> ``{"liver": "msd_liver/liver"}``; None where there is nothing to map."""
    mapping: dict[str, str] = {}
    for pair in pairs:
        target, equals, source = (part.strip() for part in pair.partition("="))
        if not (target and equals and source):
            raise UserError(f"Expected --class_mapping TARGET=SOURCE, but got {pair!r}.")
        if target in mapping:
            raise UserError(
                f"Expected one pretrained class for {target} in --class_mapping, but found {mapping[target]} and "
                f"{source}; choose one."
            )
        mapping[target] = source
    return mapping or None


def _fold(text: str) -> int | str:
    if text == "all":
        return text
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"expected a number or 'all', got {text!r}")
    return int(text)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a number of at least 1, got {text}")
    return number


def _not_negative(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"expected a number of at least 0, got {text}")
    return number


def _fraction(text: str) -> float:
    number = float(text)
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"expected a number between 0 and 1, got {text}")
    return number
