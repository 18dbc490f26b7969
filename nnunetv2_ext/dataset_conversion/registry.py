"""Which datasets can be converted, and what is said of them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from itertools import groupby

from nnunetv2_ext.dataset_conversion.entry import DatasetEntry
from nnunetv2_ext.dataset_conversion.generic_layouts import LAYOUTS
from nnunetv2_ext.dataset_conversion.table import DATASETS
from nnunetv2_ext.utilities.errors import UserError


def datasets() -> dict[str, DatasetEntry]:
    """Name on the command line -> entry, sorted by name."""
    return {entry.name: entry for entry in sorted((*DATASETS, *LAYOUTS), key=lambda entry: entry.name)}


def find_dataset(name: str) -> DatasetEntry:
    """The entry of a name.

    Raises:
        UserError: There is none.
    """
    known = datasets()
    if name not in known:
        similar = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        advice = f"did you mean {' or '.join(similar)}?" if similar else f"choose one of {', '.join(known)}."
        raise UserError(f"Expected the name of a dataset, but there is no {name!r}; {advice}")
    return known[name]


def description(*entries: DatasetEntry) -> str:
    """What there is to know of a dataset, or of several of one layout, as Markdown."""
    first = entries[0]
    parts = [first.about if len(entries) == 1 else "\n".join(f"- `{entry.name}`: {entry.about}" for entry in entries)]
    if first.layout:
        parts.append("\n".join(["```text", *first.layout, "```"]))
    parts.append(first.note)
    facts: dict[str, list[str]] = {}
    for entry in entries:
        for name, fact in entry.facts.items():
            # Of several datasets, only what is common to all.
            facts.setdefault(name, []).append(str(fact))
    common = {name: found[0] for name, found in facts.items() if found == found[:1] * len(entries)}
    parts.append("\n".join(f"- {name}: {fact}" for name, fact in common.items()))
    return "\n\n".join(filter(None, parts))


def page(entries: Iterable[DatasetEntry]) -> str:
    """The part of docs/convert.md that has a section per layout."""
    groups = [list(group) for _, group in groupby(entries, key=lambda entry: (entry.layout, entry.note))]
    return "\n\n".join(
        f"### {', '.join(f'`{entry.name}`' for entry in group)}\n\n{description(*group)}" for group in groups
    )
