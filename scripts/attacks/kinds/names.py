"""Strings in files that become paths, headers, or commands to paste."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from attacks import fixtures
from attacks.fixtures import CONFIGURATION
from attacks.recipes import RECIPES, Recipe, per_command, with_role
from attacks.sandbox import Sandbox
from attacks.table import ANY, REFUSED, Expect, SetUp, Try, kind, pick

HOSTILE = (
    "/../../../victim",
    "/../../../../victim",
    "../../victim",
    "../victim",
    "..",
    "/tmp/attack_outside",
    "a/b",
    "-rf",
    "--overwrite",
    ".hidden",
    "a\0b",
    "a\nb",
    "a\x1b[2Jb",
    "x" * 5000,
    "",
    " ",
    "$(touch $SENTINEL)",
    "`touch $SENTINEL`;touch $SENTINEL",
    "\ud800",
    5,
    None,
    ["x"],
)
ENDINGS = (
    "/../../x.nii.gz", "/../../../victim/x.nii.gz", "../x.nii.gz", ".exe", "", ".", ".nii.gz/", "nii.gz", ".NII.GZ ",
    ".nii.gz\0", ".json",
    ".nii.gz\n", "x" * 5000, 5, None, [".nii.gz"], ".dcm", ".png",
)  # fmt: skip

Change = Callable[[Any, Any], None]


def _in_checkpoint(recipe: Recipe, change: Change, name: Any, overwrite: bool) -> SetUp:
    def set_up(box: Sandbox) -> Sequence[str]:
        import torch

        argv = recipe(box)
        content = fixtures.checkpoint()
        change(content["init_args"], name)
        file = io.BytesIO()
        torch.save(content, file)
        recipe.file(box, "checkpoint").write_bytes(file.getvalue())
        return [*argv, "--overwrite"] if overwrite else argv

    return set_up


def _rename_configuration(arguments: Any, name: Any) -> None:
    arguments["configuration"] = name
    configurations = arguments["plans"]["configurations"]
    if isinstance(name, str):
        configurations[name] = configurations.pop(CONFIGURATION)


def _rename_plans(arguments: Any, name: Any) -> None:
    arguments["plans"]["plans_name"] = name


def _rename_dataset(arguments: Any, name: Any) -> None:
    arguments["plans"]["dataset_name"] = name
    arguments["dataset_json"]["name"] = name


CHANGES = {"configuration": _rename_configuration, "plans_name": _rename_plans, "dataset_name": _rename_dataset}


def _register(what: str, change: Change) -> None:
    @kind(f"name_{what}_in_checkpoint")
    def make() -> Iterator[Try]:
        each = RECIPES["import_file"]
        for part, names in (("paths", HOSTILE[:7]), ("text", HOSTILE[7:])):
            for overwrite in (False, True) if part == "paths" else (False,):
                examples = tuple(_in_checkpoint(each, change, name, overwrite) for name in names)
                # A name that no path is made of may be anything.
                codes = REFUSED if part == "paths" and what != "dataset_name" else ANY
                title = f"{part}{' --overwrite' if overwrite else ''}"
                yield Try(each.command, title, examples, Expect(codes, each.targets))


for _what, _change in CHANGES.items():
    _register(_what, _change)


def _in_json(recipe: Recipe, role: str, change: Callable[[dict[str, Any], Any], Any], name: Any) -> SetUp:
    def set_up(box: Sandbox) -> Sequence[str]:
        argv = recipe(box)
        path = recipe.file(box, role)
        content = json.loads(path.read_text())
        change(content, name)
        path.write_text(json.dumps(content))
        return argv

    return set_up


@kind("name_of_plans_in_plans")
def plans_names() -> Iterator[Try]:
    """``plans_name`` of a plans file."""
    for turn, (recipe, role) in enumerate(per_command(1, "plans")):
        few = 2 if recipe.command in ("train", "finetune") else 7
        names = (*HOSTILE[:2], *pick(HOSTILE[2:], turn, few))
        examples = tuple(
            _in_json(recipe, role, lambda plans, name: plans.update(plans_name=name), name) for name in names
        )
        yield Try(recipe.command, f"{recipe.name}/{role}", examples, Expect(ANY, recipe.targets), seconds=80)


def _rename_data(plans: dict[str, Any], name: Any) -> None:
    plans["configurations"][CONFIGURATION]["data_identifier"] = name


@kind("name_of_data_in_plans")
def data_identifiers() -> Iterator[Try]:
    """``data_identifier``, which names the folder of what is preprocessed."""
    for turn, (recipe, role) in enumerate(per_command(0, "plans")):
        names = (*HOSTILE[:2], *pick(HOSTILE[2:], turn, 4))
        examples = tuple(_in_json(recipe, role, _rename_data, name) for name in names)
        yield Try(recipe.command, f"{recipe.name}/{role}", examples, Expect(ANY, recipe.targets), seconds=80)


def _set_ending(content: dict[str, Any], ending: Any) -> None:
    content["file_ending"] = ending


@kind("name_file_ending")
def file_endings() -> Iterator[Try]:
    """``file_ending`` of a dataset.json."""
    for turn, (recipe, role) in enumerate(per_command(0, "dataset")):
        endings = (*ENDINGS[:2], *pick(ENDINGS[2:], turn, 2 if recipe.command in ("train", "finetune") else 8))
        examples = tuple(_in_json(recipe, role, _set_ending, ending) for ending in endings)
        yield Try(recipe.command, f"{recipe.name}/{role}", examples, Expect(ANY, recipe.targets), seconds=80)


@kind("name_file_ending_overwrites")
def overwriting_ending() -> Iterator[Try]:
    """An ending that leads to a file beside the target."""

    def set_up(box: Sandbox) -> Sequence[str]:
        argv = _in_json(RECIPES["predict"], "dataset", _set_ending, "/../../victim/kept.nii.gz")(box)
        fixtures.write_nifti(box.victim / "kept.nii.gz", fixtures.label_map())
        (box.out / "bad").mkdir(parents=True)
        (box.out / "good").mkdir()
        return argv

    yield Try("predict", "beside the target", (set_up,), Expect(ANY))


def _rename_class(content: dict[str, Any], name: Any) -> None:
    labels = content["labels"]
    labels[name if isinstance(name, str) else json.dumps(name)] = labels.pop("liver")


CLASS_OPTIONS = {
    "predict": (["--outputs", "per_class"], ["--output_type", "seg.nrrd"], ["--statistics"], ["--preview"],
        ["--report"]),
    "evaluate": ([],),
    "merge": ([],),
    "import": ([],),
    "export": ([],),
    "export_bundle": ([],),
    "plan": ([],),
    "report": ([],),
    "train": ([],),
    "finetune": ([],),
}  # fmt: skip


@kind("name_of_class")
def class_names() -> Iterator[Try]:
    """Names of classes, which become file names, headers, tables and pages."""
    names = [name for name in HOSTILE if isinstance(name, str)]
    markup = ["<script>alert(1)</script>", "=HYPERLINK(1)", "a,b\r\nc;d", "{{7*7}}", "%s%n", "$x^{"]
    for turn, (recipe, role) in enumerate(with_role("dataset")):
        for options in CLASS_OPTIONS[recipe.name]:
            few = 2 if recipe.command in ("train", "finetune") else 7
            examples = tuple(
                _and(_in_json(recipe, role, _rename_class, name), options)
                for name in (*pick(names, turn, few), *pick(markup, turn, few // 2))
            )
            title = f"{recipe.name}/{role} {' '.join(options)}"
            expect = Expect(ANY, recipe.targets, checks=(_escaped,))
            yield Try(recipe.command, title, examples, expect, seconds=80)


def _and(set_up: SetUp, options: Sequence[str]) -> SetUp:
    return lambda box: [*set_up(box), *options]


def _escaped(box: Sandbox, output: str) -> Iterator[str]:
    """No page holds a class name as markup."""
    for page in box.out.rglob("*.html") if box.out.is_dir() else ():
        if "<script>alert(1)" in page.read_text(errors="replace"):
            yield f"{page.name} holds a script"


def _rename_order_class(content: dict[str, Any], name: Any) -> None:
    _rename_class(content, name)


@kind("name_of_class_in_order")
def order_names() -> Iterator[Try]:
    """Names of classes in label orders."""
    names = [name for name in HOSTILE if isinstance(name, str)]
    for turn, (recipe, role) in enumerate(with_role("order")):
        examples = tuple(_in_json(recipe, role, _rename_order_class, name) for name in pick(names, turn, 9))
        yield Try(recipe.command, f"{recipe.name}/{role}", examples, Expect(ANY, recipe.targets))


#: Arguments that become paths: recipe, words that are replaced by ``{}``, and words that are added.
ARGUMENTS: Sequence[tuple[str, Sequence[str]]] = (
    ("convert", ("-n", "{}")),
    ("convert", ("--image", "{}/{{case}}.nii.gz")),
    ("convert", ("--order", "{}")),
    ("merge", ("-n", "{}")),
    ("merge", ("--rename", "Tiny/liver={}")),
    ("plan", ("--name", "{}")),
    ("plan", ("-d", "{}")),
    ("plan", ("-t", "{}")),
    ("import", ("-d", "{}")),
    ("import", ("-f", "{}")),
    ("import", ("-c", "{}")),
    ("import", ("-tr", "{}")),
    ("predict", ("-chk", "{}")),
    ("predict", ("-f", "{}")),
    ("predict", ("--classes", "{}")),
    ("export", ("-chk", "{}")),
    ("export", ("-f", "{}")),
    ("train", ("-tr", "{}")),
    ("train", ("-p", "{}")),
    ("finetune", ("-tr", "{}")),
    ("finetune", ("-p", "{}")),
    ("remap", ("--to", "{}")),
    ("remap", ("--drop", "{}")),
    ("evaluate", ("-djfile", "{}")),
    ("evaluate_order", ("--order", "{}")),
    ("tree", ("{}",)),
)


@kind("name_in_arguments")
def arguments() -> Iterator[Try]:
    """Hostile words on the command line."""
    # No argument of a process holds a NUL, and text in them is what the shell's encoding allows.
    names = [name for name in HOSTILE if isinstance(name, str) and "\0" not in name and "\ud800" not in name]
    for turn, (name, words) in enumerate(ARGUMENTS):
        recipe = RECIPES[name]
        few = [*names[:2], *pick(names[2:], turn, 2 if recipe.command in ("train", "finetune") else 4)]
        examples = tuple(_with_arguments(recipe, [word.format(each) for word in words]) for each in few)
        targets = [
            re.sub(r"(Dataset\d+_)\w+", r"\1*", target) if words[0] == "-n" else target for target in recipe.targets
        ]
        yield Try(recipe.command, f"{name} {words[0]}", examples, Expect(ANY, tuple(targets)))


def _with_arguments(recipe: Recipe, words: Sequence[str]) -> SetUp:
    def set_up(box: Sandbox) -> Sequence[str]:
        argv = recipe(box)
        if len(words) == 1:
            return ["tree", "--svg", str(box.out / "x.svg"), "--", words[0]]
        if words[1].startswith("-"):
            return [*argv, f"{words[0]}={words[1]}"]
        return [*argv, *words]

    return set_up
