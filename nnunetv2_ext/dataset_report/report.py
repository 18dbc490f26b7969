"""Measures all cases of a raw dataset and writes its page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nnunetv2_ext.dataset_conversion.duplicates import DuplicateGroup, find_duplicates
from nnunetv2_ext.dataset_report.cases import RawDataset
from nnunetv2_ext.dataset_report.measuring import CaseMeasures, MeasuringJob, measure_case
from nnunetv2_ext.dataset_report.outliers import find_outliers
from nnunetv2_ext.dataset_report.page import write_dataset_page
from nnunetv2_ext.utilities.files import refuse_existing, require_writable
from nnunetv2_ext.utilities.locks import output_lock
from nnunetv2_ext.utilities.names import printable
from nnunetv2_ext.utilities.parallel import parallel_map

PAGE_FILE = "dataset_report.html"


@dataclass(frozen=True)
class DatasetReport:
    """What was found.

    Attributes:
        page: The HTML file.
        measures: The cases that could be read.
        odd: Names of those that are unlike the others, the oddest first.
        duplicates: Groups of cases with the same image.
        problems: One sentence for each case that could not be read.
    """

    page: Path
    measures: tuple[CaseMeasures, ...]
    odd: tuple[str, ...]
    duplicates: tuple[DuplicateGroup, ...]
    problems: tuple[str, ...]


def report_dataset(
    dataset: RawDataset,
    folder: Path,
    *,
    overwrite: bool = False,
    processes: int = 0,
    progress: bool = True,
) -> DatasetReport:
    """Writes ``dataset_report.html``. Of each case numbers and a small picture are kept, whatever its size.

    Args:
        dataset: The dataset.
        folder: Where the page goes; made if need be.
        overwrite: Replace an existing page.
        processes: Number of worker processes; with 0, everything runs in this process.
        progress: Whether to show a progress bar.

    Raises:
        UserError: The page exists and may not be replaced, cannot be written, or another run writes it.
    """
    target = folder / PAGE_FILE
    with output_lock(target):
        refuse_existing(target, overwrite)
        require_writable(folder)
        measures, problems = [], []
        jobs = [MeasuringJob(dataset, case) for case in dataset.cases]
        for outcome in parallel_map(
            measure_case, jobs, processes=processes, description="Measuring", progress=progress
        ):
            if outcome.result is None:
                problems.append(printable(f"{outcome.item.case.own_name}: {outcome.error}"))
            else:
                measures.append(outcome.result)
        odd = find_outliers(measures)
        duplicates = find_duplicates({each.title: each.fingerprint for each in measures})
        write_dataset_page(dataset, measures, odd, duplicates, problems, target)
    return DatasetReport(target, tuple(measures), tuple(odd), tuple(duplicates), tuple(problems))
