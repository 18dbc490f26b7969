"""``nnUNetv2_ext_remap_labels``: label maps of one label order in the integers of another."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from nnunetv2_ext.cli._command import EXIT_BATCH_HAD_FAILURES, count, make_parser, run_command
from nnunetv2_ext.utilities.names import printable


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    parser = make_parser(
        "nnUNetv2_ext_remap_labels",
        "Writes label maps in the integers of another label order, by class name. An order is the name of one that "
        "ships with the package, a JSON file, a dataset.json or its folder, or a label map with names in its header.",
    )
    parser.add_argument("-i", "--input", type=Path, required=True, help="label map, or folder of label maps")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the results")
    parser.add_argument("--from", dest="source", metavar="ORDER", help="order of the input; default: its own header")
    parser.add_argument("--to", dest="target", required=True, metavar="ORDER", help="order of the output")
    parser.add_argument(
        "--drop",
        nargs="+",
        default=[],
        metavar="CLASS",
        help="classes that may become background, or 'all' for those that the target lacks",
    )
    parser.add_argument("-np", "--num_processes", type=count, help="files at a time; nnU-Net's default if unset")
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")
    return run_command(parser, _run, argv)


def _run(arguments: argparse.Namespace) -> int:
    from nnunetv2_ext.dataset_conversion.remapping import remap_files
    from nnunetv2_ext.utilities.parallel import default_processes

    failed = remap_files(
        arguments.input,
        arguments.output,
        source=arguments.source,
        target=arguments.target,
        drop="all" if arguments.drop == ["all"] else arguments.drop,
        num_processes=arguments.num_processes or default_processes(),
        overwrite=arguments.overwrite,
        progress=not arguments.quiet,
    )
    for name, reason in failed.items():
        print(printable(f"{name}: {reason}"))
    return EXIT_BATCH_HAD_FAILURES if failed else 0
