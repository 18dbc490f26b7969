"""``nnUNetv2_ext_info``: what is there, and whether the set-up works."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence

from nnunetv2_ext import __version__
from nnunetv2_ext.cli._command import make_parser, print_table, run_command


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point: lists trainers, plan templates and label orders, or checks the environment."""
    parser = make_parser("nnUNetv2_ext_info", "List what nnunetv2-ext offers, or check the set-up.")
    topics = parser.add_subparsers(dest="topic", metavar="TOPIC", help="all lists in short when left out")
    for name, run, description in (
        ("trainers", _trainers, "trainers for nnUNetv2_train -tr"),
        ("plans", _plans, "plan templates for nnUNetv2_ext_plan -t"),
        ("label_orders", _label_orders, "label orders: what the integers of published label maps mean"),
        (
            "environment",
            _environment,
            "check versions, folders and the trainer lookup; exit code 1 if something is broken",
        ),
    ):
        topics.add_parser(name, help=description, description=description).set_defaults(run=run)
    data = "datasets that nnUNetv2_ext_convert_dataset reads; with NAME, all that is known of one"
    dataset = topics.add_parser("datasets", help=data, description=data)
    dataset.add_argument("name", nargs="?", metavar="NAME", help="one of them")
    dataset.set_defaults(run=_datasets)
    tree = topics.add_parser("tree", help="draw a label tree", description="Draw a label tree as text or as SVG.")
    tree.add_argument("name", metavar="NAME", help="a tree that ships with the package, or a JSON or dataset.json file")
    tree.add_argument("--svg", metavar="FILE", help="write an SVG drawing instead of printing text")
    tree.set_defaults(run=_tree)
    parser.set_defaults(run=_overview)
    return run_command(parser, lambda arguments: arguments.run(arguments), argv)


def _overview(arguments: argparse.Namespace) -> None:
    from nnunetv2_ext.dataset_conversion.registry import datasets
    from nnunetv2_ext.resources import list_resources
    from nnunetv2_ext.training.trainer_listing import list_trainers

    print(f"nnunetv2-ext {__version__}")
    print(f"trainers: {', '.join(list_trainers())}")
    print(f"plans: {', '.join(list_resources('plans'))}")
    print(f"label_orders: {', '.join(list_resources('label_orders'))}")
    print(f"datasets: {', '.join(datasets())}")
    print("More: nnUNetv2_ext_info trainers|plans|label_orders|datasets; set-up: nnUNetv2_ext_info environment")


def _trainers(arguments: argparse.Namespace) -> None:
    from nnunetv2_ext.training.trainer_listing import list_trainers

    print_table(list_trainers().items())


def _plans(arguments: argparse.Namespace) -> None:
    print_table((name, content["description"]) for name, content in _contents("plans"))


def _label_orders(arguments: argparse.Namespace) -> None:
    print_table(
        (name, f"{len(content['labels'])} classes. {content.get('description', '')}")
        for name, content in _contents("label_orders")
    )


def _datasets(arguments: argparse.Namespace) -> None:
    from nnunetv2_ext.dataset_conversion.registry import datasets, description, find_dataset

    if arguments.name:
        print(description(find_dataset(arguments.name)))
    else:
        print_table((name, entry.about) for name, entry in datasets().items())


def _tree(arguments: argparse.Namespace) -> None:
    from nnunetv2_ext.labels.label_tree import LabelTree
    from nnunetv2_ext.labels.tree_drawing import tree_as_svg, tree_as_text
    from nnunetv2_ext.utilities.files import atomic_path, refuse_existing
    from nnunetv2_ext.utilities.locks import output_lock

    tree = LabelTree.from_file(arguments.name)
    if arguments.svg is None:
        print(tree_as_text(tree))
        return
    with output_lock(arguments.svg):
        refuse_existing(arguments.svg)
        with atomic_path(arguments.svg) as temporary:
            temporary.write_text(tree_as_svg(tree), encoding="utf-8")


def _contents(folder: str) -> Iterable[tuple[str, dict]]:
    from nnunetv2_ext.resources import list_resources, resource_folder
    from nnunetv2_ext.utilities.files import read_json

    return [(name, read_json(resource_folder(folder) / f"{name}.json")) for name in list_resources(folder)]


def _environment(arguments: argparse.Namespace) -> int:
    from nnunetv2_ext.utilities.environment import check_environment

    broken = 0
    for finding in check_environment("STUNetTrainer_small"):
        broken += finding.state == "broken"
        mark = {"ok": "ok", "note": "  ", "broken": "!!"}[finding.state]
        print(f"{mark}  {finding.subject:<30}  {finding.message}", flush=True)
    print("The set-up works." if not broken else f"{broken} of these have to be mended (marked !!).")
    return int(broken > 0)
