"""The table of datasets, and what is said of them."""

import re
from pathlib import Path

import pytest

from nnunetv2_ext.dataset_conversion.registry import datasets, description
from nnunetv2_ext.utilities.names import checked_name

MINIATURES = "".join(
    file.read_text(encoding="utf-8") for file in Path(__file__).with_name("datasets").glob("test_*.py")
)


@pytest.mark.parametrize("name", datasets())
def test_says_what_it_is_and_where_its_files_lie(name):
    entry = datasets()[name]
    text = description(entry)
    assert text.startswith(entry.about)
    assert all(pattern.image in text for pattern in entry.patterns)
    assert entry.layout or "{" in entry.note or name == "dicom"  # whose files lie anywhere
    checked_name(entry.title, "a dataset name")
    if not entry.is_generic and entry.module != "salt_folder":
        assert re.search(r"^- download: https?://", text, re.MULTILINE)
        assert entry.facts["licence"] in text


@pytest.mark.parametrize("name", datasets())
def test_is_tested_on_a_miniature(name):
    assert f'"{name}"' in MINIATURES


def test_known_numbers_and_absences_are_said():
    text = description(datasets()["nih_pancreas_ct"])
    assert "- training cases: 80" in text
    assert "PANCREAS_0025 (no image on The Cancer Imaging Archive)" in text
    assert "size" not in text
