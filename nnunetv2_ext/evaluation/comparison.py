"""Two predictions of the same cases: how much better one is, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nnunetv2_ext.evaluation.metrics import DISTANCES, OVERLAPS
from nnunetv2_ext.evaluation.summary import CaseMetrics
from nnunetv2_ext.utilities.errors import UserError

COMPARED = (*OVERLAPS, *DISTANCES)
_RESAMPLES = 5000
_CONFIDENCE = 95


def compare_predictions(
    cases: Sequence[CaseMetrics], others: Sequence[CaseMetrics], class_names: Mapping[str, str]
) -> dict[str, Any]:
    """Differences of means, with confidence intervals of the paired bootstrap over cases.

    Whole cases are drawn with replacement, so that the classes of a case stay together (Efron and Tibshirani, An
    Introduction to the Bootstrap, 1993, percentile intervals). A class counts in the cases in which both predictions
    have a number.

    Args:
        cases: Scores of one prediction.
        others: Scores of the other one.
        class_names: Key of the class -> its name.

    Returns:
        ``cases``: how many both have; ``mean``: metric -> figures of the mean over classes; ``classes``: key of the
        class -> metric -> figures. Figures are ``value`` and ``other`` (means over the common cases), ``difference``
        (the first minus the other), ``interval`` of the difference (95 %; NaN for a single case), and ``cases``.

    Raises:
        UserError: No case was scored in both.
    """
    by_case = {other.case: other.metrics for other in others}
    pairs = [(case.metrics, by_case[case.case]) for case in cases if case.case in by_case]
    if not pairs:
        raise UserError("Expected cases that both predictions have, but none was scored in both.")
    drawn = np.random.default_rng(0).multinomial(len(pairs), [1 / len(pairs)] * len(pairs), size=_RESAMPLES)
    result: dict[str, Any] = {"cases": len(pairs), "mean": {}, "classes": {key: {} for key in class_names}}
    for metric in COMPARED:
        # (cases, classes, prediction)
        values = np.array(
            [[[side.get(key, {}).get(metric, np.nan) for side in pair] for key in class_names] for pair in pairs]
        )
        known = np.isfinite(values).all(-1)
        differences = np.where(known, values[..., 0] - values[..., 1], 0)
        with np.errstate(invalid="ignore"):
            # A class that is in none of the drawn cases has no mean there.
            resampled = (drawn @ differences) / (drawn @ known)
            means = np.where(known[..., None], values, 0).sum(0) / known.sum(0)[:, None]
        for number, key in enumerate(class_names):
            if known[:, number].any():
                count = int(known[:, number].sum())
                result["classes"][key][metric] = _figures(means[number], resampled[:, number], count)
        found = known.any(0)
        if found.any():
            of_classes = np.ma.masked_invalid(resampled[:, found]).mean(axis=1).filled(np.nan)
            result["mean"][metric] = _figures(means[found].mean(0), of_classes, int(known.any(1).sum()))
    return result


def _figures(means: np.ndarray, resampled: np.ndarray, cases: int) -> dict[str, Any]:
    tail = (100 - _CONFIDENCE) / 2
    interval = np.nanpercentile(resampled, (tail, 100 - tail)).tolist() if cases > 1 else [float("nan")] * 2
    value, other = means.tolist()
    return {"value": value, "other": other, "difference": value - other, "interval": interval, "cases": cases}
