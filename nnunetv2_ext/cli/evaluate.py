"""``nnUNetv2_ext_evaluate``: score label maps against references."""

from __future__ import annotations

import argparse
import logging
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from nnunetv2_ext.cli._command import EXIT_BATCH_HAD_FAILURES, count, make_parser, run_command
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.names import quoted
from nnunetv2_ext.utilities.parallel import default_processes

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the command."""
    return run_command(_parser(), _run, argv)


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "nnUNetv2_ext_evaluate",
        "Score predicted label maps: Dice, precision, recall, HD95, surface distances and volumes per case, class and "
        "source. A class is scored only where it is annotated.",
    )
    parser.add_argument("-gt", required=True, metavar="DIR", help="folder of reference label maps, such as labelsTr")
    parser.add_argument("-pred", required=True, metavar="DIR", help="folder of predictions")
    parser.add_argument("-o", metavar="DIR", help="where results go (default: the folder of the predictions)")
    meaning = parser.add_mutually_exclusive_group()
    meaning.add_argument("-djfile", metavar="FILE", help="dataset.json of the references (default: beside them)")
    meaning.add_argument("--order", metavar="NAME", help="label order of references and predictions")
    meaning.add_argument(
        "--mapping", metavar="NAME", help="score predictions of another label order, such as TotalSegmentator's"
    )
    parser.add_argument("--pred_order", metavar="NAME", help="label order of the predictions, where they do not say")
    parser.add_argument("--compare", metavar="DIR", help="predictions of the same cases that -pred is compared with")
    parser.add_argument("-i", metavar="DIR", help="images on which the worst cases are drawn, such as imagesTr")
    parser.add_argument("--worst", type=int, default=5, metavar="N", help="draw the N worst cases on the page")
    parser.add_argument("--classes", nargs="+", metavar="NAME", help="score these classes only")
    parser.add_argument(
        "--tolerances",
        nargs="+",
        default=[],
        metavar="NAME=MM",
        help="tolerances of the surface Dice of classes (2 mm for the others)",
    )
    parser.add_argument(
        "--lesions",
        nargs="+",
        default=[],
        metavar="NAME",
        help="count the connected components of these classes: detected, missed and invented ones",
    )
    parser.add_argument("--chill", action="store_true", help="do not mind references without a prediction")
    parser.add_argument("--overwrite", action="store_true", help="replace existing results")
    parser.add_argument("-np", type=count, default=default_processes(), metavar="N", help="number of processes")
    return parser


def _tolerance(text: str) -> tuple[str, float]:
    name, _, number = text.rpartition("=")
    try:
        tolerance = float(number)
    except ValueError:
        tolerance = math.nan
    if not name or not 0 <= tolerance < math.inf:
        raise UserError(f"Expected a class and its tolerance in mm, such as liver=2.5, but got {quoted(text)}.")
    return name, tolerance


def _run(arguments: argparse.Namespace) -> int:
    from nnunetv2_ext.evaluation.comparison import compare_predictions
    from nnunetv2_ext.evaluation.evaluate import check_output_folder, evaluate_folder, write_evaluation
    from nnunetv2_ext.utilities.locks import output_lock

    tolerances = dict(map(_tolerance, arguments.tolerances))
    # Before the folder for the results is made, which may be that of the predictions.
    for what, given in (
        ("reference label maps", arguments.gt),
        ("predictions", arguments.pred),
        ("predictions", arguments.compare),
        ("images", arguments.i),
    ):
        if given is not None and not Path(given).is_dir():
            raise UserError(f"Expected a folder of {what}, but {given} is none.")
    folder = Path(arguments.o or arguments.pred)
    check_output_folder(folder, arguments.overwrite)
    with output_lock(folder, inside=True):
        evaluate = partial(
            evaluate_folder,
            arguments.gt,
            dataset_json=arguments.djfile,
            order=arguments.order,
            mapping=arguments.mapping,
            prediction_order=arguments.pred_order,
            classes=arguments.classes,
            tolerances=tolerances,
            lesions=arguments.lesions,
            chill=arguments.chill,
            processes=arguments.np,
            progress=not arguments.quiet,
        )
        evaluation, comparison = evaluate(arguments.pred, worst=max(arguments.worst, 0), images=arguments.i), None
        problems = evaluation.problems
        if arguments.compare:
            other = evaluate(arguments.compare)
            problems += other.problems
            names = evaluation.summary["class_names"]
            comparison = {"other": arguments.compare, **compare_predictions(evaluation.cases, other.cases, names)}
        title = f"Evaluation of {Path(arguments.pred).resolve().name}"
        write_evaluation(evaluation, folder, title, arguments.overwrite, comparison)
    logger.info(
        "Scored %d cases: mean Dice %.4f; see %s.",
        len(evaluation.cases),
        evaluation.summary["foreground_mean"]["Dice"],
        folder / "evaluation.html",
    )
    for problem in problems:
        logger.error("Not scored: %s", problem)
    return EXIT_BATCH_HAD_FAILURES if problems else 0
