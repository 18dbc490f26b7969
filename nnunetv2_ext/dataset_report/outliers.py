"""Which cases are unlike the others."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nnunetv2_ext.dataset_report.measuring import CaseMeasures

#: Median absolute deviations from the median beyond which a case is odd: four standard deviations of a normal one.
MOST_DEVIATIONS = 6.0
#: Cases that it takes to say what is usual.
FEWEST_CASES = 5
#: Share of the cases that have a class, from which on a case without it is odd.
USUAL = 0.95

# The least deviation that counts as one: of logarithms (a tenth, so that a factor of 1.8 is odd where all cases but one
# are equal), and of intensities as a share of their median.
_LEAST_OF_LOGARITHMS = 0.1
_LEAST_OF_INTENSITIES = 0.05


@dataclass(frozen=True)
class Oddity:
    """One thing that is odd about one case.

    Attributes:
        score: How many deviations it is from the median; infinite where that is no question of degree.
        reason: What it is, in words.
    """

    score: float
    reason: str


def find_outliers(measures: Sequence[CaseMeasures]) -> dict[str, list[Oddity]]:
    """Compares the cases of each source in spacing, and in volume and intensity of each class.

    Volumes and spacings are compared by their logarithms, because they differ by factors.

    Returns:
        Title of an odd case -> what is odd about it; the oddest case first, and of each case the oddest thing first.
    """
    found: dict[str, list[Oddity]] = defaultdict(list)
    for each in measures:
        found[each.title] += [Oddity(math.inf, finding) for finding in each.findings]
    by_source: dict[str, list[CaseMeasures]] = defaultdict(list)
    for each in measures:
        by_source[each.source].append(each)
    for group in by_source.values():
        for axis in range(3):
            spacings = {each.title: each.spacing[axis] for each in group if len(each.spacing) > axis}
            _add_odd(found, spacings, f"spacing along {'xyz'[axis]}", "mm", logarithmic=True)
        for name in dict.fromkeys(name for each in group for name in each.volumes):
            volumes = {each.title: each.volumes[name] for each in group if name in each.volumes}
            present = {case: volume for case, volume in volumes.items() if volume > 0}
            _add_odd(found, present, f"volume of {name}", "ml", logarithmic=True)
            intensities = {each.title: each.intensities[name] for each in group if name in each.intensities}
            _add_odd(found, intensities, f"mean intensity of {name}", "", logarithmic=False)
            if len(volumes) >= FEWEST_CASES and USUAL * len(volumes) <= len(present) < len(volumes):
                share = f"{len(present)} of {len(volumes)} cases"
                for case in sorted(volumes.keys() - present.keys()):
                    found[case].append(Oddity(math.inf, f"no {name}, which {share} have"))
    ordered = {case: sorted(odd, key=lambda oddity: -oddity.score) for case, odd in found.items() if odd}
    return dict(sorted(ordered.items(), key=lambda item: [-oddity.score for oddity in item[1]]))


def deviations(values: Iterable[float], least: float) -> npt.NDArray[np.float64]:
    """How many median absolute deviations each value is from the median.

    Args:
        values: At least one.
        least: What a deviation is taken for where the median one is smaller.
    """
    array = np.fromiter(values, dtype=np.float64)
    distances = np.abs(array - np.median(array))
    unit = max(float(np.median(distances)), least)
    return np.divide(distances, unit, out=np.where(distances > 0, math.inf, 0.0), where=unit > 0)


def _add_odd(
    found: dict[str, list[Oddity]], values: Mapping[str, float], what: str, unit: str, *, logarithmic: bool
) -> None:
    if len(values) < FEWEST_CASES:
        return
    median = float(np.median(list(values.values())))
    if logarithmic:
        scores = deviations(map(math.log, values.values()), _LEAST_OF_LOGARITHMS)
    else:
        scores = deviations(values.values(), _LEAST_OF_INTENSITIES * abs(median))
    for (case, value), score in zip(values.items(), scores.tolist(), strict=True):
        if score > MOST_DEVIATIONS:
            reason = f"{what}: {value:.4g} {unit}".rstrip() + f" (median {median:.4g} {unit}".rstrip()
            found[case].append(Oddity(score, f"{reason}, {score:.0f} deviations)"))
