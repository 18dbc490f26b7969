"""Whatever a template is given stays text."""

from __future__ import annotations

import re
from pathlib import Path

import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nnunetv2_ext.pages
from nnunetv2_ext.pages import rendering

FOLDER = Path(nnunetv2_ext.pages.__file__).parent / "templates"


@given(st.text())
def test_titles_are_escaped(title):
    page = rendering._environment().get_template("page.html").render(title=title)
    (shown,) = re.findall(r"<h1>(.*?)</h1>", page, re.DOTALL)
    assert not set("<>\"'") & set(shown)


def test_what_a_template_names_must_be_given(tmp_path):
    with pytest.raises(jinja2.UndefinedError):
        rendering.write_page("page.html", tmp_path / "page.html")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("template", sorted(FOLDER.glob("*.html")), ids=lambda path: path.name)
def test_templates_trust_nothing_and_load_nothing(template):
    text = template.read_text(encoding="utf-8")
    assert "| safe" not in text
    assert "autoescape false" not in text
    assert not re.findall(r'(?:src|href)\s*=\s*["\']?(?:https?:)?//', text)


@pytest.mark.parametrize(("value", "shown"), [(0.12345, "0.123"), (float("nan"), ""), (float("inf"), "inf")])
def test_numbers(value, shown):
    assert rendering.decimals(value) == shown
