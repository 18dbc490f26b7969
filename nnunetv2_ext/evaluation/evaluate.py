"""Scores a folder of predictions against a folder of references."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isnan
from pathlib import Path
from typing import Any

from nnunetv2_ext.evaluation.cases import EvaluationJob, PredictionFolder, draw_case, evaluate_case, label_map_files
from nnunetv2_ext.evaluation.classes import References, read_references
from nnunetv2_ext.evaluation.page import write_evaluation_page
from nnunetv2_ext.evaluation.summary import CaseMetrics, mean_dice, summarise, write_csv
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.files import refuse_existing, require_writable, write_json
from nnunetv2_ext.utilities.parallel import parallel_map

SUMMARY_FILE, TABLE_FILE, PAGE_FILE = "summary.json", "metrics.csv", "evaluation.html"
COMPARISON_FILE = "comparison.json"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
        summary: Content of summary.json.
        cases: Scores of each case.
        problems: One sentence for each case that could not be scored.
        worst: Case -> picture (PNG) of those with the lowest mean Dice, the worst first.
    """

    summary: dict[str, Any]
    cases: tuple[CaseMetrics, ...]
    problems: tuple[str, ...]
    worst: Mapping[str, bytes] = field(default_factory=dict)


def evaluate_folder(
    reference_folder: Path | str,
    prediction_folder: Path | str,
    *,
    dataset_json: Path | str | None = None,
    order: str | None = None,
    mapping: str | None = None,
    prediction_order: str | None = None,
    classes: Sequence[str] | None = None,
    tolerances: Mapping[str, float] | None = None,
    lesions: Sequence[str] = (),
    chill: bool = False,
    worst: int = 0,
    images: Path | str | None = None,
    processes: int = 0,
    progress: bool = True,
) -> Evaluation:
    """Scores every case of a reference folder.

    Args:
        reference_folder: Reference label maps, such as ``labelsTr``.
        prediction_folder: Predictions as ``nnUNetv2_predict`` or ``nnUNetv2_ext_predict`` write them (merged, per
            source or per class).
        dataset_json: Says what the references mean; by default the file in or beside their folder.
        order: A label order that says it instead, for references and predictions.
        mapping: A direct-inference table: the union of some predicted classes against each reference class.
        prediction_order: What the label values of the predictions mean; by default what their folder says.
        classes: What is scored; by default every class. A name without source stands for that class of all sources.
        tolerances: Class -> mm, of its ``SurfaceDice``; 2 mm where nothing is said.
        lesions: Classes whose connected components are counted as detected, missed and invented.
        chill: Leave out references without a prediction silently (nnU-Net's word).
        worst: How many of the worst cases are drawn.
        images: Folder of the images that they are drawn on, such as ``imagesTr``.
        processes: Number of worker processes; with 0, everything runs in this process.
        progress: Whether to show a progress bar.

    Raises:
        UserError: Nothing can be scored, or a reference has a value that no class explains.
    """
    references, predictions = Path(reference_folder), Path(prediction_folder)
    # Before the search for a dataset.json, whose absence would be reported instead.
    files = label_map_files(references)
    meaning = read_references(
        references, dataset_json=Path(dataset_json) if dataset_json else None, order=order, mapping=mapping
    ).with_choice(classes, tolerances or {}, lesions)
    if not files:
        raise UserError(f"Expected label maps (.nii.gz and the like) in {references}, but found none.")
    if not predictions.is_dir():
        raise UserError(f"Expected a folder of predictions, but {predictions} is none.")
    # An order that was asked for outranks what the folder of the predictions says.
    predicted = PredictionFolder(predictions, meaning, prediction_order or order, files)
    jobs, problems = [], []
    for case, file in files.items():
        try:
            if chill and not predicted.has(case):
                continue
            jobs.append(predicted.job(case, file))
        except UserError as error:
            problems.append(str(error))
    problems += _missing_masks(jobs)
    cases: list[tuple[CaseMetrics, EvaluationJob]] = []
    for outcome in parallel_map(evaluate_case, jobs, processes=processes, description="Evaluating", progress=progress):
        if outcome.result is None:
            problems.append(outcome.error or "")
            continue
        job = outcome.item
        if isinstance(outcome.result, str):
            raise UserError(outcome.result)
        cases.append((CaseMetrics(job.case, job.source, job.reference, job.prediction, outcome.result), job))
    if not cases:
        first = f"; the first problem: {problems[0]}" if problems else "; no reference has a prediction of its name."
        raise UserError(f"None of the {len(files)} cases in {references} could be scored{first}")
    scores = tuple(score for score, _ in cases)
    _say_what_is_left_out(meaning, scores)
    wanted = [reference for reference in meaning.classes if reference.wanted]
    summary = summarise(scores, {reference.key: reference.name for reference in wanted})
    summary["tolerances_mm"] = {reference.key: reference.tolerance for reference in wanted}
    ranked = sorted((mean_dice(score), number) for number, score in enumerate(scores) if not isnan(mean_dice(score)))
    shown = [cases[number][1] for _, number in ranked[:worst]]
    pictures = {}
    for job in shown:
        try:
            pictures[job.case] = draw_case(job, Path(images) if images else None)
        except UserError as error:
            problems.append(str(error))
    return Evaluation(summary, scores, tuple(problems), pictures)


def write_evaluation(
    evaluation: Evaluation,
    folder: Path | str,
    title: str,
    overwrite: bool = False,
    comparison: Mapping[str, Any] | None = None,
) -> None:
    """Writes summary.json, metrics.csv and evaluation.html, and comparison.json where there is one.

    Raises:
        UserError: One of the files exists and may not be overwritten.
    """
    folder = Path(folder)
    check_output_folder(folder, overwrite)
    write_json(evaluation.summary, folder / SUMMARY_FILE)
    write_csv(evaluation.cases, evaluation.summary["class_names"], folder / TABLE_FILE)
    if comparison is None:
        # That of an earlier run would not belong to these scores.
        (folder / COMPARISON_FILE).unlink(missing_ok=True)
    else:
        write_json(comparison, folder / COMPARISON_FILE)
    write_evaluation_page(evaluation, comparison, title, folder / PAGE_FILE)


def check_output_folder(folder: Path | str, overwrite: bool = False) -> None:
    """Refuses to replace results, and folders that cannot be written; called before the work as well.

    Raises:
        UserError: A result exists and may not be overwritten, or the folder cannot be written.
    """
    require_writable(folder)
    for name in (SUMMARY_FILE, TABLE_FILE, PAGE_FILE, COMPARISON_FILE):
        refuse_existing(Path(folder) / name, overwrite)


def _missing_masks(jobs: Sequence[EvaluationJob]) -> list[str]:
    """Sentences about classes that some cases have a mask of and others do not."""
    predicted = {name for job in jobs for name in job.masks}
    return [
        f"Expected a mask of {', '.join(names)} for case {job.case!r}, as for others, but {job.prediction} has none; "
        "predict it again."
        for job in jobs
        if (names := [name for name in job.missing if name in predicted])
    ]


def _say_what_is_left_out(meaning: References, cases: Sequence[CaseMetrics]) -> None:
    scored = {key for case in cases for key in case.metrics}
    absent = [reference.name for reference in meaning.classes if reference.wanted and reference.key not in scored]
    if absent:
        logger.warning("The predictions do not have these classes, which are not scored: %s", ", ".join(absent))
