"""``nnUNetv2_ext_report``: a page that shows a raw dataset."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from nnunetv2_ext.cli._command import EXIT_BATCH_HAD_FAILURES, count, make_parser, run_command
from nnunetv2_ext.utilities.parallel import default_processes

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the command."""
    return run_command(_parser(), _run, argv)


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "nnUNetv2_ext_report",
        "Write one page that shows a raw dataset: slices, sizes, intensities and volumes of every case, odd cases "
        "first, images that occur twice, and the classes of each source of a collection.",
    )
    parser.add_argument("dataset", metavar="DATASET_ID", help="ID, name or folder of a raw dataset")
    parser.add_argument(
        "-o", type=Path, metavar="FOLDER", help="where dataset_report.html goes (default: the folder of the dataset)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing page")
    parser.add_argument("-np", type=count, default=default_processes(), metavar="N", help="number of processes")
    return parser


def _run(arguments: argparse.Namespace) -> int:
    from nnunetv2_ext.dataset_report.cases import read_raw_dataset
    from nnunetv2_ext.dataset_report.report import report_dataset

    dataset = read_raw_dataset(arguments.dataset)
    report = report_dataset(
        dataset,
        arguments.o or dataset.folder,
        overwrite=arguments.overwrite,
        processes=arguments.np,
        progress=not arguments.quiet,
    )
    logger.info(
        "%d cases, %d of them odd, %d images more than once; see %s.",
        len(report.measures),
        len(report.odd),
        len(report.duplicates),
        report.page,
    )
    for problem in report.problems:
        logger.error("Could not be read: %s", problem)
    return EXIT_BATCH_HAD_FAILURES if report.problems else 0
