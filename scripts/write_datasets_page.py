"""Writes the part of docs/convert.md that has a section per dataset, from the table of datasets.

Usage: python scripts/write_datasets_page.py
"""

from __future__ import annotations

from pathlib import Path

from nnunetv2_ext.dataset_conversion.registry import datasets, page

PAGE = Path(__file__).resolve().parents[1] / "docs" / "convert.md"
HEADING = "## Datasets\n\n"

if __name__ == "__main__":
    text, _, _ = PAGE.read_text(encoding="utf-8").partition(HEADING)
    PAGE.write_text(f"{text}{HEADING}{page(datasets().values())}\n", encoding="utf-8")
