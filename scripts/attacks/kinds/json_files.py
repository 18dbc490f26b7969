"""Files that are no JSON, or JSON of another form, in the place of every JSON file that a command reads."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from attacks.recipes import JSON_ROLES, Recipe, per_command
from attacks.sandbox import Sandbox
from attacks.table import ANY, Expect, SetUp, Try, kind

Spoil = Callable[[Path], object]
DEPTH = 100_000


def with_spoiled(recipe: Recipe, role: str, spoil: Spoil) -> SetUp:
    """A recipe with the JSON file of a role spoilt."""

    def set_up(box: Sandbox) -> list[str]:
        argv = recipe(box)
        spoil(recipe.file(box, role))
        return argv

    return set_up


def _rewrite(change: Callable[[bytes], bytes]) -> Spoil:
    return lambda path: path.write_bytes(change(path.read_bytes()))


def _with_entry(entry: bytes) -> Spoil:
    return _rewrite(lambda content: content[:1] + entry + b", " + content[1:])


def _repeat_all_entries(content: bytes) -> bytes:
    return content[:-1] + b", " + content[1:]


def _replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _replace_by_dangling_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere.json")


def _replace_by_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _link_to_itself(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


NO_JSON: dict[str, Spoil] = {
    "empty": _rewrite(lambda _: b""),
    "truncated": _rewrite(lambda content: content[: len(content) // 2]),
    "binary": _rewrite(lambda _: bytes(range(256)) * 40),
    "not_utf8": _with_entry(b'"\xff\xfe\xe4": 1'),
    "nested_100000_deep": _with_entry(b'"deep": ' + b"[" * DEPTH + b"]" * DEPTH),
    "number_of_5000_digits": _with_entry(b'"long": ' + b"7" * 5000),
    "list": _rewrite(lambda content: b"[" + content + b"]"),
    "text": _rewrite(lambda _: b'"text"'),
    "null": _rewrite(lambda _: b"null"),
    "number": _rewrite(lambda _: b"5"),
    "no_entries": _rewrite(lambda _: b"{}"),
    "folder": _replace_by_folder,
    "dangling_link": _replace_by_dangling_link,
    "link_to_itself": _link_to_itself,
    "fifo": _replace_by_fifo,
}  # fmt: skip
#: Readable after all, so that a command may take them: only it must not trip over them.
ODD_JSON: dict[str, Spoil] = {
    "byte_order_mark": _rewrite(lambda content: b"\xef\xbb\xbf" + content),
    "nan_and_infinity": _with_entry(b'"odd": [NaN, Infinity, -Infinity]'),
    "lone_surrogate": _with_entry(b'"\\ud800\\u0000": "\\udfff"'),
    "every_name_twice": _rewrite(_repeat_all_entries),
    "utf16": _rewrite(lambda content: content.decode().encode("utf-16")),
    "null_byte_in_names": _with_entry(b'"a\\u0000b\\u001b[2J": "\\u0000"'),
    "million_entries": _with_entry(b",".join(b'"k%d": 1' % number for number in range(1_000_000))),
}  # fmt: skip
_STRATEGIES = {
    "type": ("list", "text", "null", "number"),
    "encoding": ("binary", "not_utf8", "utf16", "byte_order_mark", "lone_surrogate"),
    "link": ("dangling_link", "link_to_itself"),
    "size": ("nested_100000_deep", "number_of_5000_digits", "million_entries"),
}  # fmt: skip
#: What a role's file may be and be right.
_ADMISSIBLE = {("no_entries", "exceptions"), ("no_entries", "splits"), ("list", "splits"), ("list", "dataset")}


def _register(turn: int, name: str, spoil: Spoil, odd: bool) -> None:
    strategy = next((f"json_{strategy}" for strategy, names in _STRATEGIES.items() if name in names), "")

    @kind(f"json_{name}", strategy=strategy)
    def make() -> Iterator[Try]:
        for recipe, role in per_command(turn, *JSON_ROLES):
            lenient = odd or (name, role) in _ADMISSIBLE or not _needed(recipe, role, name)
            expect = Expect(ANY, recipe.targets) if lenient else Expect(targets=recipe.targets)
            yield Try(recipe.command, f"{recipe.name}/{role}", (with_spoiled(recipe, role, spoil),), expect)


def _needed(recipe: Recipe, role: str, fault: str) -> bool:
    """Whether the command cannot do without this file; what it may do without, it may also leave unread."""
    place = recipe.name, role
    if fault in ("dangling_link", "link_to_itself", "fifo", "folder"):
        # Checkpoints hold the plans and the dataset.json that lie beside them, and fine-tuning makes missing plans.
        beside = {("import", "plans"), ("train", "plans2"), ("train", "dataset2"), ("finetune", "plans2")}
        if place in beside | {("finetune", "plans")}:
            return False
    return place not in {("import", "dataset"), ("train", "splits"), ("finetune", "dataset2")}


for _turn, (_name, _spoil) in enumerate((NO_JSON | ODD_JSON).items()):
    _register(_turn, _name, _spoil, odd=_name in ODD_JSON)
