"""An HTML page of an evaluation: box plots per class and tables, in one file that needs nothing else."""

from __future__ import annotations

import html
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nnunetv2_ext.evaluation.summary import CaseMetrics, values_of
from nnunetv2_ext.utilities.files import atomic_path

# Metric -> what the axis says.
PLOTTED = {
    "Dice": "Dice",
    "SurfaceDice2mm": "Surface Dice at 2 mm",
    "HD95": "95th percentile Hausdorff distance (mm)",
    "RelativeVolumeError": "Relative volume error",
}
TABULATED = {
    "Dice": "Dice",
    "Precision": "Precision",
    "Recall": "Recall",
    "HD95": "HD95 (mm)",
    "MeanSurfaceDistance": "Mean surface distance (mm)",
    "SurfaceDice1mm": "Surface Dice 1 mm",
    "SurfaceDice2mm": "Surface Dice 2 mm",
    "SurfaceDice3mm": "Surface Dice 3 mm",
    "VolumeError": "Volume error (ml)",
}

_STYLE = """
body { font-family: system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; font-size: 0.85rem; margin-bottom: 2rem; }
th, td { padding: 0.2rem 0.6rem; text-align: right; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; }
thead th { position: sticky; top: 0; background: #fff; vertical-align: bottom; }
svg { max-width: 100%; height: auto; }
"""


def write_page(
    summary: Mapping[str, Any], cases: Sequence[CaseMetrics], problems: Sequence[str], title: str, target: Path
) -> None:
    """Writes the page.

    Args:
        summary: What `summarise` returned.
        cases: The scored cases.
        problems: One sentence for each case that could not be scored.
        title: Heading.
        target: An ``.html`` file.
    """
    parts = [f"<h1>{html.escape(title)}</h1>", f"<p>{_overview(summary, cases)}</p>"]
    if problems:
        items = "".join(f"<li>{html.escape(problem)}</li>" for problem in problems)
        parts.append(f"<h2>Not scored</h2><ul>{items}</ul>")
    names = summary["class_names"]
    parts.append("<h2>All cases</h2>" + _table(summary, names))
    if len(summary["per_source"]) > 1:
        parts += [f"<h2>{html.escape(name)}</h2>" + _table(part, names) for name, part in summary["per_source"].items()]
    parts += [f"<h2>{html.escape(text)}</h2>" + _box_plot(cases, summary, metric) for metric, text in PLOTTED.items()]
    parts.append(
        "<p>Means leave out cases in which a class is neither annotated nor predicted. Distances also leave out cases "
        "in which it was missed or invented; these are counted in the table.</p>"
    )
    page = (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )
    with atomic_path(target) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _overview(summary: Mapping[str, Any], cases: Sequence[CaseMetrics]) -> str:
    sources = len(summary["per_source"])
    return (
        f"{len(cases)} cases, {len(summary['mean'])} classes{f', {sources} sources' if sources else ''}. Mean Dice of "
        f"the classes: <strong>{_number(summary['foreground_mean']['Dice'])}</strong>."
    )


def _table(summary: Mapping[str, Any], class_names: Mapping[str, str]) -> str:
    head = "".join(f"<th>{text}</th>" for text in ("Class", "Cases", "Missed", "Invented", *TABULATED.values()))
    rows = []
    for key, counts in summary["counts"].items():
        numbers = [counts[name] for name in ("cases", "missed", "invented")]
        means = [_number(summary["mean"][key][metric]) for metric in TABULATED]
        cells = "".join(f"<td>{cell}</td>" for cell in [html.escape(class_names[key]), *numbers, *means])
        rows.append(f"<tr>{cells}</tr>")
    means = [_number(summary["foreground_mean"][metric]) for metric in TABULATED]
    cells = "".join(f"<th>{cell}</th>" for cell in ["Mean", "", "", "", *means])
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody><tfoot><tr>{cells}</tr></tfoot></table>"


def _box_plot(cases: Sequence[CaseMetrics], summary: Mapping[str, Any], metric: str) -> str:
    """One horizontal box per class, and the cases as dots, as an SVG element."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    names = summary["class_names"]
    values = {key: [v for v in values_of(cases, key, metric) if not math.isnan(v)] for key in summary["mean"]}
    values = {key: numbers for key, numbers in values.items() if numbers}
    if not values:
        return "<p>No case has this metric.</p>"
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
    if metric in ("Dice", "SurfaceDice2mm"):
        axes.set_xlim(-0.02, 1.02)
    axes.grid(axis="x", color="#ddd")
    buffer = io.StringIO()
    # Text as text: smaller, searchable, and readable by screen readers. A fixed salt makes equal pages equal files.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": metric}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    drawing = buffer.getvalue()
    return drawing[drawing.index("<svg") :]


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.3f}"
