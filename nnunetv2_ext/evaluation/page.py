"""An HTML page of an evaluation: box plots per class and tables, in one file that needs nothing else."""

from __future__ import annotations

import io
import math
from base64 import b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from nnunetv2_ext.evaluation.summary import CaseMetrics, mean_dice, values_of
from nnunetv2_ext.pages.rendering import write_page

if TYPE_CHECKING:
    from nnunetv2_ext.evaluation.evaluate import Evaluation

# Metric -> what the axis says.
PLOTTED = {
    "Dice": "Dice",
    "SurfaceDice": "Surface Dice at the tolerance of the class",
    "HD95": "95th percentile Hausdorff distance (mm)",
    "RelativeVolumeError": "Relative volume error",
}
TABULATED = {
    "Dice": "Dice",
    "Precision": "Precision",
    "Recall": "Recall",
    "HD95": "HD95 (mm)",
    "MeanSurfaceDistance": "Mean surface distance (mm)",
    "SurfaceDice": "Surface Dice",
    "SurfaceDice1mm": "Surface Dice 1 mm",
    "SurfaceDice2mm": "Surface Dice 2 mm",
    "SurfaceDice3mm": "Surface Dice 3 mm",
    "VolumeError": "Volume error (ml)",
}


def write_evaluation_page(
    evaluation: Evaluation, comparison: Mapping[str, Any] | None, title: str, target: Path
) -> None:
    """Writes the page.

    Args:
        evaluation: What was scored.
        comparison: What `compare_predictions` returned, if there is a second prediction.
        title: Heading.
        target: An ``.html`` file.
    """
    summary, cases = evaluation.summary, evaluation.cases
    dice = {case.case: mean_dice(case) for case in cases}
    write_page(
        "evaluation.html",
        target,
        title=title,
        summary=summary,
        class_names=summary["class_names"],
        number_of_cases=len(cases),
        problems=evaluation.problems,
        metrics=TABULATED,
        comparison=comparison,
        worst=[(case, dice[case], b64encode(picture).decode()) for case, picture in evaluation.worst.items()],
        plots={heading: _box_plot(cases, summary, metric) for metric, heading in PLOTTED.items()},
    )


def _box_plot(cases: Sequence[CaseMetrics], summary: Mapping[str, Any], metric: str) -> Markup | None:
    """One horizontal box per class, and the cases as dots, as an SVG element; None where no case has the metric."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    names = summary["class_names"]
    values = {key: [v for v in values_of(cases, key, metric) if not math.isnan(v)] for key in summary["mean"]}
    values = {key: numbers for key, numbers in values.items() if numbers}
    if not values:
        return None
    figure = Figure(figsize=(10, 1.2 + 0.26 * len(values)), layout="constrained")
    axes = figure.subplots()
    positions = range(len(values), 0, -1)
    axes.boxplot(
        list(values.values()),
        positions=list(positions),
        orientation="horizontal",
        widths=0.6,
        showfliers=False,
        medianprops={"color": "#c1272d"},
        manage_ticks=False,
    )
    for position, numbers in zip(positions, values.values(), strict=True):
        axes.plot(numbers, [position] * len(numbers), ".", color="#1f77b4", alpha=0.4, markersize=4)
    axes.set_yticks(list(positions), [names[key] for key in values], parse_math=False)
    axes.set_ylim(0.3, len(values) + 0.7)
    if metric in ("Dice", "SurfaceDice"):
        axes.set_xlim(-0.02, 1.02)
    axes.grid(axis="x", color="#ddd")
    buffer = io.StringIO()
    # Text as text: smaller, searchable, and readable by screen readers. A fixed salt makes equal pages equal files.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": metric}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    drawing = buffer.getvalue()
    return Markup(drawing[drawing.index("<svg") :])  # matplotlib escapes the names in it
