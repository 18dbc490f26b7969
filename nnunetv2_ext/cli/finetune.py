"""``nnUNetv2_ext_finetune``: from a pretrained checkpoint to a fine-tuned model in one command."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from nnunetv2_ext.cli._command import count, make_parser, run_command
from nnunetv2_ext.cli._training_arguments import (
    add_class_mapping_argument,
    add_option_arguments,
    add_run_arguments,
    add_stem_argument,
    run_from,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; see `nnunetv2_ext.training.finetuning.finetune`."""
    parser = make_parser(
        "nnUNetv2_ext_finetune",
        "Fine-tunes a pretrained network on a dataset: picks the trainer that fits the checkpoint, adapts the plans of "
        "the pretraining to the dataset and preprocesses it where that is not done yet, transfers the weights (heads "
        "of classes with the same name included) and trains.",
    )
    add_run_arguments(parser)
    parser.add_argument(
        "-pretrained_weights",
        required=True,
        metavar="FILE_OR_MODEL_FOLDER",
        help="nnU-Net v2 .pth or model folder, STU-Net or MultiTalent .model, MONAI bundle model.pt, .safetensors",
    )
    add_class_mapping_argument(parser)
    add_stem_argument(parser)
    parser.add_argument("-tr", help="trainer; default: the one that fits the checkpoint")
    parser.add_argument("-p", help="plans identifier; default: plans made from those of the pretraining")
    parser.add_argument(
        "--adapt",
        choices=("pretraining", "dataset"),
        help="spacing, patch size and normalisation of the plans that are made: those of the pretraining (default), or "
        "spacing and normalisation of the dataset and a patch no larger than its median image",
    )
    parser.add_argument("-np", type=count, default=2, help="processes that preprocess")
    add_option_arguments(parser)
    return run_command(parser, _run, argv)


def _run(arguments: argparse.Namespace) -> None:
    from nnunetv2_ext.cluster.distributed import only_rank_0_speaks
    from nnunetv2_ext.cluster.ranks import find_ranks
    from nnunetv2_ext.cluster.training import train
    from nnunetv2_ext.training.finetuning import finetune

    ranks = find_ranks(os.environ)
    with only_rank_0_speaks(ranks):
        finetune(
            trainer=arguments.tr,
            plans=arguments.p,
            adapt=arguments.adapt,
            num_processes=arguments.np,
            show_progress=not arguments.quiet and ranks.rank == 0,
            train=train,
            **run_from(arguments),
        )


if __name__ == "__main__":
    raise SystemExit(main())
