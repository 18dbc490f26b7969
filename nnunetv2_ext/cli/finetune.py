"""``nnUNetv2_ext_finetune``: from a pretrained checkpoint to a fine-tuned model in one command."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from nnunetv2_ext.cli._command import make_parser, run_command
from nnunetv2_ext.cli._training_arguments import add_option_arguments, add_run_arguments, options_from


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
    parser.add_argument("-tr", help="trainer; default: the one that fits the checkpoint")
    parser.add_argument("-p", help="plans identifier; default: plans made from those of the pretraining")
    parser.add_argument("-np", type=int, default=2, help="processes that preprocess")
    add_option_arguments(parser, warmup=True)
    return run_command(parser, _run, argv)


def _run(arguments: argparse.Namespace) -> None:
    from nnunetv2_ext.training.finetuning import finetune

    if arguments.c_or_start:
        # Only here: the trainers bring torch and nnU-Net along.
        from nnunetv2_ext.training.trainers.base import ALLOW_FRESH_START

        os.environ[ALLOW_FRESH_START] = "1"
    finetune(
        dataset=arguments.dataset_name_or_id,
        configuration=arguments.configuration,
        fold=arguments.fold,
        pretrained_weights=arguments.pretrained_weights,
        trainer=arguments.tr,
        plans=arguments.p,
        num_processes=arguments.np,
        show_progress=not arguments.quiet,
        num_gpus=arguments.num_gpus,
        npz=arguments.npz,
        continue_training=arguments.c or arguments.c_or_start,
        only_validate=arguments.val,
        validate_best=arguments.val_best,
        disable_checkpointing=arguments.disable_checkpointing,
        device=arguments.device,
        options=options_from(arguments),
    )
