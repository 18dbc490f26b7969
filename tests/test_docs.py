"""What README and docs/ tell a user to type exists: its parser takes every command, every link leads somewhere."""

from __future__ import annotations

import importlib
import re
import shlex
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from nnunetv2_ext.training.trainer_listing import list_trainers

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
SCRIPTS = {
    point.name: point.value for point in entry_points(group="console_scripts") if point.name.startswith("nnUNetv2_ext_")
}


def commands(page: Path) -> list[str]:
    """Lines of the page's shell blocks, continuations joined, comments removed, split at && and pipes."""
    found = []
    blocks = re.findall(r"^```(.*?)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    for block in (text for language, text in blocks if language in ("bash", "")):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            joined = shlex.join(words)
            found += [part.strip() for part in re.split(r"'&&'|'\|'|';'", joined) if part.strip()]
    return found


COMMANDS = sorted({(page.name, command) for page in PAGES for command in commands(page)})


@pytest.mark.parametrize(("page", "command"), [c for c in COMMANDS if "nnUNetv2_ext_" in c[1]])
def test_commands_of_this_package_are_parsed(page, command, monkeypatch):
    words = shlex.split(command)
    while re.fullmatch(r"\w+=.*", words[0], re.DOTALL):
        words.pop(0)
    if not words[0].startswith("nnUNetv2_ext_"):
        return
    module_name, function = SCRIPTS[words[0]].split(":")
    module = importlib.import_module(module_name)
    parsed = []
    monkeypatch.setattr(module, "run_command", lambda parser, run, argv: parsed.append(parser.parse_args(argv)) or 0)
    getattr(module, function)(words[1:])
    assert parsed


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_readme_leads_to_every_page():
    targets = re.findall(r"\]\((docs/[^)#]+\.md)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert set(targets) == {f"docs/{page.name}" for page in PAGES if page.parent != ROOT}


def test_readme_lists_every_trainer_and_no_other():
    rows = re.findall(
        r"^\| (`\w+Trainer.*?) \|.*\| (.*) \|$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    listed = set()
    for names, purpose in rows:
        first, *others = re.findall(r"`(\w+)`", names)
        prefix = first.partition("_")[0]
        trainers = {first, *(prefix + other if other.startswith("_") else other for other in others)}
        suffixes = re.findall(r"`(_\w+)`", purpose)
        listed |= trainers | {trainer + suffix for trainer in trainers for suffix in suffixes}
    assert listed == set(list_trainers())


def test_readme_names_every_command():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [name for name in SCRIPTS if name not in readme] == []


def test_sentences_of_the_troubleshooting_page_are_said():
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    sentences = re.findall(r"^\| `(Expected .*?)` \|", page, re.MULTILINE)
    assert len(sentences) > 15
    code = "\n".join(file.read_text(encoding="utf-8") for file in (ROOT / "nnunetv2_ext").rglob("*.py"))
    assert [sentence for sentence in sentences if sentence not in code] == []
