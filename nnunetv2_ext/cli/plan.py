"""``nnUNetv2_ext_plan``: a plans file for a dataset from a template."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from nnunetv2_ext.cli._command import count, make_parser, run_command


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; see `nnunetv2_ext.experiment_planning.plan_dataset`."""
    parser = make_parser(
        "nnUNetv2_ext_plan",
        "Write a plans file for a dataset from a plan template, ready for nnUNetv2_preprocess and nnUNetv2_train. "
        "What does not fit the dataset is adapted, and every change is reported.",
    )
    parser.add_argument("-d", dest="dataset", required=True, metavar="ID", help="dataset ID or name")
    parser.add_argument(
        "-t",
        dest="template",
        required=True,
        metavar="TEMPLATE",
        help="name of a template (nnUNetv2_ext_info plans lists them) or path of a plans file",
    )
    parser.add_argument(
        "-c",
        dest="configurations",
        nargs="+",
        metavar="CONFIGURATION",
        help="configurations to plan; default: all of the template, or 2d for 2D images",
    )
    parser.add_argument("--spacing", nargs="+", type=float, metavar="MM", help="target spacing z y x in mm")
    parser.add_argument("--patch_size", nargs="+", type=int, metavar="VOXELS", help="patch size z y x in voxels")
    parser.add_argument("--batch_size", type=int, metavar="N", help="samples per batch")
    parser.add_argument("--name", help="name of the plans file; default: that of the template")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing plans file")
    parser.add_argument("-np", dest="num_processes", type=count, help="processes for extracting a missing fingerprint")
    return run_command(parser, _run, argv)


def _run(arguments: argparse.Namespace) -> None:
    from nnunetv2_ext.experiment_planning.plan_dataset import plan_dataset
    from nnunetv2_ext.experiment_planning.templates import load_template

    template = Path(arguments.template)
    name = arguments.name or template.name.removesuffix(".json")
    path = plan_dataset(
        arguments.dataset,
        load_template(arguments.template),
        name=name,
        configurations=arguments.configurations,
        spacing=arguments.spacing,
        patch_size=arguments.patch_size,
        batch_size=arguments.batch_size,
        overwrite=arguments.overwrite,
        num_processes=arguments.num_processes,
        show_progress=not arguments.quiet,
        source=template if template.is_file() else None,
    )
    print(f"Plans were written to {path}.")
    print(f"Next: nnUNetv2_preprocess -d {shlex.quote(arguments.dataset)} -plans_name {name} -c CONFIGURATION")
