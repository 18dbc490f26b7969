"""Flags that the training commands share."""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from nnunetv2_ext.training.options import TrainingOptions
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.validation import Shape, flag


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the positional arguments and flags of ``nnUNetv2_train``."""
    parser.add_argument("dataset_name_or_id", help="dataset name or ID to train with")
    parser.add_argument("configuration", help="configuration to train, for example 3d_fullres")
    parser.add_argument("fold", type=_fold, help="fold of the cross-validation (0 to 4) or 'all'")
    parser.add_argument("-num_gpus", type=int, default=1, help="number of GPUs of this machine; of processes on CPUs")
    parser.add_argument(
        "--timeout_minutes",
        type=_minutes,
        default=30,
        metavar="N",
        help="how long the processes of a training on several GPUs or machines wait for each other",
    )
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
    parser.add_argument("--overwrite", action="store_true", help="train anew where there is a training already")
    parser.add_argument("-device", choices=("cuda", "cpu", "mps"), default="cuda", help="where to train")


def add_class_mapping_argument(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that say which of the pretrained weights to start from."""
    parser.add_argument(
        "--transfer",
        choices=("encoder", "backbone", "all"),
        help="part of the pretrained weights to start from; default: all, heads included",
    )
    parser.add_argument(
        "--class_mapping",
        nargs="+",
        action="extend",
        default=[],
        metavar="TARGET=SOURCE",
        help="start the heads of class TARGET from those of the pretrained class SOURCE; only needed where the names "
        "differ (liver=msd_liver/liver); one SOURCE may serve several TARGETs; may be repeated",
    )


def add_stem_argument(parser: argparse.ArgumentParser) -> None:
    """Adds the flag that chooses among the stems of pretrained weights."""
    parser.add_argument(
        "--stem",
        metavar="ID",
        help="of weights with a head per dataset (MultiTalent for nnU-Net v2), start from the stem and the "
        "preprocessing of this one; default: a stem with as many channels",
    )


def add_option_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the hyper-parameters that can be set on the command line."""
    group = parser.add_argument_group("hyper-parameters (default: what the trainer and the plans say)")
    for option in dataclasses.fields(TrainingOptions):
        shape = option.metadata["shape"]
        # SUPPRESS keeps "(default: None)" out of the help and absent options out of the namespace.
        how: dict[str, Any] = {"default": argparse.SUPPRESS, "help": option.metadata["help"]}
        if shape is flag:
            group.add_argument(f"--{option.name}", action=argparse.BooleanOptionalAction, **how)
            # The same in nnU-Net's spelling.
            group.add_argument(
                f"--no_{option.name}",
                dest=option.name,
                action="store_false",
                default=argparse.SUPPRESS,
                help=argparse.SUPPRESS,
            )
        elif choices := option.metadata["choices"]:
            group.add_argument(f"--{option.name}", choices=choices, **how)
        else:
            group.add_argument(f"--{option.name}", type=_value_of(shape), metavar="N", **how)


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
        "transfer": arguments.transfer,
        "stem": arguments.stem,
        "num_gpus": arguments.num_gpus,
        "timeout_minutes": arguments.timeout_minutes,
        "npz": arguments.npz,
        "continue_training": arguments.c or arguments.c_or_start,
        "only_validate": arguments.val,
        "validate_best": arguments.val_best,
        "disable_checkpointing": arguments.disable_checkpointing,
        "overwrite": arguments.overwrite,
        "device": arguments.device,
        "options": options_from(arguments),
    }


def options_from(arguments: argparse.Namespace) -> TrainingOptions:
    """The hyper-parameters that were given."""
    names = {option.name for option in dataclasses.fields(TrainingOptions)}
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


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = 0
    # A longer wait than torch can express.
    if not 0 < minutes <= 1e6:
        raise argparse.ArgumentTypeError(f"expected a number of minutes above 0, got {text!r}")
    return minutes


def _value_of(shape: Shape) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        for read in (int, float, str):
            with suppress(ValueError):
                if shape.fits(value := read(text)):
                    return value
        raise argparse.ArgumentTypeError(f"expected {shape.expected}, got {text}")

    return parse
