"""Volume and intensity of every predicted class."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Integer, Shaped

from nnunetv2_ext.utilities.files import atomic_path, read_json, write_json
from nnunetv2_ext.utilities.validation import entries, integer, mapping_of, nullable, number

#: Column order of the CSV file.
COLUMNS = ("case", "class", "voxels", "volume_ml", "mean_intensity", "sd_intensity")


_FIGURES = {
    "voxels": integer(0),
    "volume_ml": number(0),
    **dict.fromkeys(("mean_intensity", "sd_intensity"), nullable(number())),
}
_CASE = entries({"classes": mapping_of(entries(_FIGURES, needed=tuple(_FIGURES)))}, needed=("classes",))


#: ``voxels``, ``volume_ml``, ``mean_intensity`` and ``sd_intensity`` of one class in one case; intensities in the unit
#: of the image (HU in CT), None for an empty class.
ClassStatistics = dict[str, float | None]


def label_statistics(
    labels: Integer[np.ndarray, "z y x"],
    intensities: Shaped[np.ndarray, "z y x"],
    names: Mapping[int, str],
    voxel_volume_ml: float,
    parts: Mapping[int, Sequence[int]] | None = None,
) -> dict[str, ClassStatistics]:
    """Measures every class of a label map in one pass over the voxels.

    Args:
        labels: ``(z, y, x)``.
        intensities: The image ``(z, y, x)`` as it was read.
        names: Class name of every integer but 0; classes that do not occur get a volume of zero.
        voxel_volume_ml: Volume of a voxel.
        parts: Integers that count as a class, for those that are made of others; by default its own alone.

    Returns:
        Per class: voxels, volume in ml, mean and (population) standard deviation of the intensities.
    """
    foreground = labels != 0
    values = labels[foreground].astype(np.intp)
    # Sums of squares lose digits when the mean is large against the spread: the mean is taken off first.
    inside = intensities[foreground].astype(np.float64)
    shift = float(inside.mean()) if inside.size else 0.0
    inside -= shift
    length = max(names, default=0) + 1
    counts = np.bincount(values, minlength=length)
    sums = np.bincount(values, weights=inside, minlength=length)
    squares = np.bincount(values, weights=inside**2, minlength=length)
    figures: dict[str, ClassStatistics] = {}
    for value, name in names.items():
        own = list((parts or {}).get(value, (value,)))
        count = int(counts[own].sum())
        mean = float(sums[own].sum()) / count if count else 0.0
        variance = max(float(squares[own].sum()) / count - mean**2, 0.0) if count else 0.0
        figures[name] = {
            "voxels": count,
            "volume_ml": count * voxel_volume_ml,
            "mean_intensity": mean + shift if count else None,
            "sd_intensity": variance**0.5 if count else None,
        }
    return figures


def gather_statistics(folder: Path, cases: Iterable[str]) -> None:
    """Joins the cases' files to ``<folder>/statistics.json`` and ``.csv`` (one row per case and class).

    Cases of earlier runs into the same folder are part of it: continuing a run, or running its parts, ends with the
    same tables as a single run.

    Args:
        folder: The output folder.
        cases: Cases whose files are to be joined, in the order wanted; those without a file are left out.
    """
    per_case = {}
    for case in cases:
        file = folder / "statistics" / f"{case}.json"
        if file.is_file():
            per_case[case] = read_json(file, _CASE)["classes"]
    write_json(per_case, folder / "statistics.json")
    with (
        atomic_path(folder / "statistics.csv") as temporary,
        open(temporary, "w", newline="", encoding="utf-8") as table,
    ):
        writer = csv.writer(table)
        writer.writerow(COLUMNS)
        for case, classes in per_case.items():
            for name, figures in classes.items():
                numbers = (figures[column] for column in COLUMNS[2:])
                writer.writerow([case, name, *("" if number is None else number for number in numbers)])
