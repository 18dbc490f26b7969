"""Lays the pages of the documentation site into build/pages, from which zensical builds it.

    python scripts/stage_site.py && zensical build --strict

Pages of the repository are taken as they are, with links that lead between them; what they link to outside (scripts,
tests) becomes plain text. The reference is made from parsers, docstrings and tables of the package.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import itertools
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import nnunetv2_ext
from nnunetv2_ext.dataset_conversion.registry import datasets
from nnunetv2_ext.resources import list_resources, resource_folder
from nnunetv2_ext.training.trainer_listing import list_trainers
from nnunetv2_ext.utilities.files import read_json

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "build" / "pages"
PACKAGE = ROOT / "nnunetv2_ext"


def main() -> None:
    """Writes all pages."""
    shutil.rmtree(TARGET, ignore_errors=True)
    (TARGET / "reference").mkdir(parents=True)
    pages = staged_pages()
    for source, name in pages.items():
        if source.suffix == ".md":
            text = with_links(source.read_text(encoding="utf-8"), source, pages)
            (TARGET / name).write_text(text, encoding="utf-8")
        else:
            shutil.copyfile(source, TARGET / name)
    for name, text in reference().items():
        (TARGET / "reference" / f"{name}.md").write_text(text, encoding="utf-8")


def staged_pages() -> dict[Path, str]:
    """File of the repository -> its name among the pages."""
    pages = {page: "index.md" if page.name == "README.md" else page.name for page in ROOT.glob("*.md")}
    return pages | {page: page.name for ending in ("md", "svg", "png") for page in (ROOT / "docs").glob(f"*.{ending}")}


def with_links(text: str, source: Path, pages: dict[Path, str]) -> str:
    """A page with links to other pages by their new names."""

    def link(match: re.Match[str]) -> str:
        mark, label, target, anchor = match.groups(default="")
        if "://" in target or not target:
            return match[0]
        name = pages.get((source.parent / target).resolve())
        return label if name is None else f"{mark}[{label}]({name}{anchor})"

    return re.sub(r"(!?)\[([^\]]*)\]\(([^)#\s]*)(#[^)]*)?\)", link, text)


def reference() -> dict[str, str]:
    """Name of each page of the reference -> its text."""
    return {
        "commands": "\n\n".join(("# Commands", *_commands())) + "\n",
        "python": "\n\n".join(("# Python", *_public_names())) + "\n",
        "lists": "\n\n".join(("# Trainers, datasets, plans and label orders", *_lists())) + "\n",
        "variables": "\n".join(("# Environment variables", "", *_variables())) + "\n",
    }


def parsers() -> dict[str, argparse.ArgumentParser]:
    """Name of every command -> its parser."""
    found: dict[str, argparse.ArgumentParser] = {}
    for path in sorted((PACKAGE / "cli").glob("[a-z]*.py")):
        module = importlib.import_module(f"nnunetv2_ext.cli.{path.stem}")
        original = module.run_command
        module.run_command = lambda parser, *_: found.setdefault(parser.prog, parser)  # type: ignore[attr-defined]
        try:
            module.main([])
        finally:
            module.run_command = original  # type: ignore[attr-defined]
    return found


def _commands() -> Iterator[str]:
    for name, parser in parsers().items():
        yield f"## {name}"
        yield parser.description or ""
        yield _flags(parser)
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for topic, sub in action.choices.items():
                    yield f"### {name.removeprefix('nnUNetv2_ext_')} {topic}"
                    yield _text(sub.description or "")
                    yield _flags(sub)


def _flags(parser: argparse.ArgumentParser) -> str:
    formatter = parser._get_formatter()
    rows = ["| argument | what it does |", "|---|---|"]
    for action in parser._actions:
        if action.help == argparse.SUPPRESS or isinstance(action, argparse._HelpAction | argparse._SubParsersAction):
            continue
        words = " ".join(_words(action))
        about = formatter._expand_help(action) if action.help else ""
        rows.append(f"| `{words}` | {_text(about)} |")
    return "\n".join(rows)


def _words(action: argparse.Action) -> Iterator[str]:
    """The argument as it is typed: its spellings, and what follows them."""
    if action.option_strings:
        yield ", ".join(action.option_strings)
    if action.nargs == 0:
        return
    if action.metavar is not None:
        yield " ".join(action.metavar) if isinstance(action.metavar, tuple) else action.metavar
    elif action.choices:
        yield "{" + ",".join(map(str, action.choices)) + "}"
    else:
        yield action.dest.upper() if action.option_strings else action.dest
    if action.nargs in ("+", "*"):
        yield "..."


def _text(text: str) -> str:
    """Help texts are no Markdown."""
    return re.sub(r"([\\`*_{}\[\]<>#|])", r"\\\1", " ".join(text.split()))


def _public_names() -> Iterator[str]:
    for name in nnunetv2_ext.__all__:
        module = getattr(nnunetv2_ext, name).__module__
        yield f"::: {module}.{name}"


def _lists() -> Iterator[str]:
    for title, rows in (
        ("Trainers", list_trainers()),
        ("Datasets", {name: entry.about for name, entry in datasets().items()}),
        ("Plans", {name: _described("plans", name) for name in list_resources("plans")}),
        ("Label orders", {name: _described("label_orders", name) for name in list_resources("label_orders")}),
    ):
        yield f"## {title}"
        yield "\n".join(["| name | |", "|---|---|", *(f"| `{name}` | {_text(text)} |" for name, text in rows.items())])


def _described(folder: str, name: str) -> str:
    return str(read_json(resource_folder(folder) / f"{name}.json").get("description", ""))


def _variables() -> Iterator[str]:
    """Constants that name a variable of the environment, with the sentence that stands below each."""
    yield "| variable | what it does |"
    yield "|---|---|"
    for path in sorted(PACKAGE.rglob("*.py")):
        body = ast.parse(path.read_text(encoding="utf-8")).body
        for statement, after in itertools.pairwise(body):
            value, text = (getattr(each, "value", None) for each in (statement, after))
            if (
                isinstance(statement, ast.Assign)
                and isinstance(value, ast.Constant)
                and re.fullmatch(r"nnUNet(v2_ext)?_\w+", str(value.value))
                and isinstance(after, ast.Expr)
                and isinstance(text, ast.Constant)
            ):
                about = " ".join(str(text.value).replace("``", "`").split())
                yield f"| `{value.value!s}` | {about} |"


if __name__ == "__main__":
    main()
