"""``nnUNetv2_ext_info``: what is there, and whether the set-up works."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from nnunetv2_ext import __version__
from nnunetv2_ext.cli._command import make_parser, print_table, run_command
from nnunetv2_ext.utilities.errors import UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point: lists trainers, plan templates, label orders and datasets, or checks the environment."""
    parser = make_parser("nnUNetv2_ext_info", "List what nnunetv2-ext offers, or check the set-up.")
    topics = parser.add_subparsers(dest="topic", metavar="TOPIC", help="all lists in short when left out")
    # Before or after the topic.
    as_json: dict[str, Any] = {"action": "store_true", "help": "print JSON instead of text"}
    parser.add_argument("--json", **as_json)
    for name, run, description, about in (
        ("trainers", _trainers, "trainers for nnUNetv2_train -tr", ""),
        ("plans", _plans, "plan templates for nnUNetv2_ext_plan -t", "the content of one"),
        ("label_orders", _label_orders, "what the integers of published label maps mean", "the content of one"),
        ("datasets", _datasets, "datasets that nnUNetv2_ext_convert_dataset reads", "all that is known of one"),
        (
            "environment",
            _environment,
            "check versions, folders and the trainer lookup; exit code 1 if something is broken",
            "",
        ),
    ):
        topic = topics.add_parser(name, help=description, description=description)
        if about:
            topic.add_argument("name", nargs="?", metavar="NAME", help=about)
        topic.add_argument("--json", default=argparse.SUPPRESS, **as_json)
        topic.set_defaults(run=run)
    tree = topics.add_parser("tree", help="draw a label tree", description="Draw a label tree as text or as SVG.")
    tree.add_argument("name", metavar="NAME", help="a tree that ships with the package, or a JSON or dataset.json file")
    tree.add_argument("--svg", metavar="FILE", help="write an SVG drawing instead of printing text")
    tree.add_argument("--json", default=argparse.SUPPRESS, **as_json)
    tree.set_defaults(run=_tree)
    parser.set_defaults(run=_overview)
    return run_command(parser, lambda arguments: arguments.run(arguments), argv)


def _overview(arguments: argparse.Namespace) -> None:
    from nnunetv2_ext.dataset_conversion.registry import datasets
    from nnunetv2_ext.resources import list_resources
    from nnunetv2_ext.training.trainer_listing import list_trainers

    lists = {
        "trainers": list(list_trainers()),
        "plans": list_resources("plans"),
        "label_orders": list_resources("label_orders"),
        "datasets": list(datasets()),
    }
    if arguments.json:
        _print_json({"version": __version__, **lists})
        return
    print(f"nnunetv2-ext {__version__}", *_lines(lists), sep="\n")
    print("More: nnUNetv2_ext_info trainers|plans|label_orders|datasets; set-up: nnUNetv2_ext_info environment")


def _trainers(arguments: argparse.Namespace) -> None:
    from nnunetv2_ext.training.trainer_listing import list_trainers

    _print_list(list_trainers(), arguments)


def _plans(arguments: argparse.Namespace) -> None:
    _resources("plans", lambda content: content["description"], arguments)


def _label_orders(arguments: argparse.Namespace) -> None:
    _resources(
        "label_orders",
        lambda content: f"{len(content['labels'])} classes. {content.get('description', '')}",
        arguments,
    )


def _resources(folder: str, summary: Any, arguments: argparse.Namespace) -> None:
    from nnunetv2_ext.resources import list_resources, resource_folder
    from nnunetv2_ext.utilities.files import read_json

    names = list_resources(folder)
    if arguments.name and arguments.name not in names:
        raise UserError(f"Expected one of {', '.join(names)}, but got {arguments.name!r}.")
    wanted = [arguments.name] if arguments.name else names
    contents = {name: read_json(resource_folder(folder) / f"{name}.json") for name in wanted}
    if not arguments.name:
        _print_list({name: summary(content) for name, content in contents.items()}, arguments)
    elif arguments.json:
        _print_json(contents[arguments.name])
    else:
        print(*_lines(contents[arguments.name]), sep="\n")


def _datasets(arguments: argparse.Namespace) -> None:
    from nnunetv2_ext.dataset_conversion.registry import datasets, description, find_dataset

    if not arguments.name:
        _print_list({name: entry.about for name, entry in datasets().items()}, arguments)
        return
    entry = find_dataset(arguments.name)
    if arguments.json:
        about = {"name": entry.name, "about": entry.about, "layout": entry.layout, "note": entry.note}
        _print_json({**about, **entry.facts})
    else:
        print(description(entry))


def _tree(arguments: argparse.Namespace) -> None:
    from nnunetv2_ext.labels.label_tree import LabelTree
    from nnunetv2_ext.labels.tree_drawing import tree_as_svg, tree_as_text
    from nnunetv2_ext.utilities.files import atomic_path, refuse_existing
    from nnunetv2_ext.utilities.locks import output_lock

    tree = LabelTree.from_file(arguments.name)
    if arguments.svg is None:
        if arguments.json:
            _print_json(tree.to_nested())
        else:
            print(tree_as_text(tree))
        return
    with output_lock(arguments.svg):
        refuse_existing(arguments.svg)
        with atomic_path(arguments.svg) as temporary:
            temporary.write_text(tree_as_svg(tree), encoding="utf-8")


def _environment(arguments: argparse.Namespace) -> int:
    from nnunetv2_ext.utilities.environment import check_environment

    findings = []
    for finding in check_environment("STUNetTrainer_small"):
        findings.append(finding)
        if not arguments.json:
            mark = {"ok": "ok", "note": "  ", "broken": "!!"}[finding.state]
            print(f"{mark}  {finding.subject:<30}  {finding.message}", flush=True)
    broken = sum(finding.state == "broken" for finding in findings)
    if arguments.json:
        _print_json([asdict(finding) for finding in findings])
    else:
        print("The set-up works." if not broken else f"{broken} of these have to be mended (marked !!).")
    return int(broken > 0)


def _print_list(descriptions: Mapping[str, str], arguments: argparse.Namespace) -> None:
    if arguments.json:
        _print_json(descriptions)
    else:
        print_table(descriptions.items())


def _print_json(content: Any) -> None:
    print(json.dumps(content, indent=4, ensure_ascii=False))


def _lines(content: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    for name, value in content.items():
        if isinstance(value, dict):
            yield f"{indent}{name}:"
            yield from _lines(value, f"{indent}  ")
        else:
            yield f"{indent}{name}: {', '.join(map(str, value)) if isinstance(value, list) else value}"
