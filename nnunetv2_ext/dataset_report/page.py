"""The HTML page of a dataset, in one file that needs nothing else."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from nnunetv2_ext.dataset_conversion.duplicates import DuplicateGroup
from nnunetv2_ext.dataset_report.cases import RawDataset
from nnunetv2_ext.dataset_report.measuring import CaseMeasures
from nnunetv2_ext.dataset_report.outliers import FEWEST_CASES, MOST_DEVIATIONS, USUAL, Oddity
from nnunetv2_ext.images.colours import display_colours
from nnunetv2_ext.pages.rendering import write_page


def write_dataset_page(
    dataset: RawDataset,
    measures: Sequence[CaseMeasures],
    odd: Mapping[str, Sequence[Oddity]],
    duplicates: Sequence[DuplicateGroup],
    problems: Sequence[str],
    target: Path,
) -> None:
    """Writes the page.

    Args:
        dataset: The dataset.
        measures: Its cases.
        odd: Titles of odd cases -> what is odd about them, the oddest first; these are shown first.
        duplicates: Groups of cases with the same image.
        problems: What is wrong with the cases that are missing among ``measures``.
        target: An ``.html`` file.
    """
    ranks = {title: rank for rank, title in enumerate(odd)}
    write_page(
        "dataset_report.html",
        target,
        title=dataset.folder.name,
        channels=dataset.channels,
        tests=sum(each.is_test for each in measures),
        classes=list(_classes(dataset, measures)),
        sources=dataset.sources,
        cases=[
            {
                "measures": each,
                "odd": [oddity.reason for oddity in odd.get(each.title, ())],
                "picture": b64encode(each.picture).decode(),
            }
            for each in sorted(measures, key=lambda each: ranks.get(each.title, len(ranks)))
        ],
        number_of_odd=len(odd),
        duplicates=duplicates,
        problems=problems,
        most_deviations=MOST_DEVIATIONS,
        fewest_cases=FEWEST_CASES,
        usual=USUAL,
    )


def _classes(dataset: RawDataset, measures: Sequence[CaseMeasures]) -> Iterator[dict[str, Any]]:
    """A row of the table of classes each."""
    colours = display_colours(dataset.names)
    value_of = {name: value for value, name in dataset.names.items()}
    for name in dataset.values:
        volumes = [each.volumes[name] for each in measures if name in each.volumes]
        present = [volume for volume in volumes if volume > 0]
        intensities = [each.intensities[name] for each in measures if name in each.intensities]
        yield {
            "name": name,
            "colour": "#{:02x}{:02x}{:02x}".format(*colours[value_of[name]]) if name in value_of else None,
            "values": dataset.values[name],
            "annotated": len(volumes),
            "present": len(present),
            "volumes": (min(present), median(present), max(present)) if present else None,
            "intensity": median(intensities) if intensities else None,
        }
