"""``nnUNetv2_ext_train``: nnUNetv2_train with hyper-parameters on the command line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from nnunetv2_ext.cli._command import make_parser, run_command
from nnunetv2_ext.cli._training_arguments import (
    add_class_mapping_argument,
    add_option_arguments,
    add_run_arguments,
    add_stem_argument,
    run_from,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the command."""
    parser = make_parser(
        "nnUNetv2_ext_train",
        "Trains a network. Takes every flag of nnUNetv2_train and hyper-parameters besides; what was set is recorded "
        "in training_options.json in the output folder.",
    )
    add_run_arguments(parser)
    parser.add_argument("-tr", default="nnUNetTrainer", help="trainer; nnUNetv2_ext_info trainers lists them")
    parser.add_argument("-p", default="nnUNetPlans", help="plans identifier")
    parser.add_argument("-pretrained_weights", help="checkpoint file or model folder of any known format")
    add_class_mapping_argument(parser)
    add_stem_argument(parser)
    add_option_arguments(parser)
    return run_command(parser, _run, argv)


def _run(arguments: argparse.Namespace) -> None:
    from nnunetv2_ext.cluster.training import train
    from nnunetv2_ext.training.run_training import TrainingRun

    train(TrainingRun(trainer=arguments.tr, plans=arguments.p, **run_from(arguments)))


if __name__ == "__main__":
    raise SystemExit(main())
