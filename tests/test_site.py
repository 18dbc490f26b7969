"""scripts/stage_site.py: links between pages lead somewhere, and the reference leaves nothing out."""

from __future__ import annotations

import argparse
import re
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import nnunetv2_ext
from nnunetv2_ext.autoload import MODE_VARIABLE
from nnunetv2_ext.training.options import SETTINGS_VARIABLE

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def stage_site(load_script):
    return load_script("stage_site")


@pytest.fixture(scope="module")
def reference(stage_site):
    return stage_site.reference()


def test_links_lead_to_pages_or_become_text(stage_site):
    pages = stage_site.staged_pages()
    names = set(pages.values())
    for source in pages:
        if source.suffix == ".md":
            text = stage_site.with_links(source.read_text(encoding="utf-8"), source, pages)
            targets = re.findall(r"\]\(([^)#\s]+)", text)
            assert [target for target in targets if "://" not in target and target not in names] == [], source
    assert stage_site.with_links("[a](docs/view.md#x) [b](scripts/attack.py)", ROOT / "README.md", pages) == (
        "[a](view.md#x) b"
    )


def test_every_page_is_in_the_navigation(stage_site, reference):
    configuration = (ROOT / "zensical.toml").read_text(encoding="utf-8")
    listed = set(re.findall(r'"([\w/]+\.md)"', configuration))
    pages = {name for name in stage_site.staged_pages().values() if name.endswith(".md")}
    assert listed == pages | {f"reference/{name}.md" for name in reference}


def test_every_command_and_flag_is_in_the_reference(stage_site, reference):
    commands = {
        point.name for point in entry_points(group="console_scripts") if point.value.startswith("nnunetv2_ext.")
    }
    parsers = stage_site.parsers()
    assert set(parsers) == commands
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", reference["commands"], re.DOTALL | re.MULTILINE))
    for name, parser in parsers.items():
        shown = [action for action in parser._actions if action.help != argparse.SUPPRESS]
        flags = {flag for action in shown for flag in action.option_strings} - {"-h", "--help"}
        assert {flag for flag in flags if not re.search(rf"[`, ]{flag}[`, ]", sections[name])} == set()


def test_every_public_name_and_variable_is_in_the_reference(reference):
    assert {name.rpartition(".")[2] for name in re.findall(r"^::: (\S+)", reference["python"], re.MULTILINE)} == set(
        nnunetv2_ext.__all__
    )
    for variable in (MODE_VARIABLE, SETTINGS_VARIABLE):
        assert f"| `{variable}` |" in reference["variables"]
