"""``nnUNetv2_ext_merge_datasets``: several nnU-Net raw datasets become one collection."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from nnunetv2_ext.cli._command import add_group_argument, add_orientation_argument, count, make_parser, run_command
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.parallel import default_processes


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the command."""
    return run_command(_parser(), _run, argv)


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "nnUNetv2_ext_merge_datasets",
        "Merge nnU-Net raw datasets into one in which every case keeps the classes of its own source. Classes are "
        "called SOURCE/CLASS, where SOURCE is the dataset's name without DatasetXXX_.",
    )
    parser.add_argument("datasets", metavar="DATASET", nargs="+", help="ID, name or folder; or SOURCE=DATASET")
    parser.add_argument("-d", dest="dataset_id", type=int, required=True, metavar="ID", help="ID of the new dataset")
    parser.add_argument("-n", dest="name", required=True, metavar="NAME", help="its name, without DatasetXXX_")
    parser.add_argument(
        "--share",
        action="append",
        default=[],
        metavar="NAME=SOURCE/CLASS,SOURCE/CLASS",
        help="make one class of several; may be repeated",
    )
    parser.add_argument(
        "--select",
        nargs="+",
        default=[],
        metavar="SOURCE/CLASS",
        help="classes to keep; sources of which none is named keep all",
    )
    parser.add_argument(
        "--rename", action="append", default=[], metavar="SOURCE/CLASS=NAME", help="call a class NAME; may be repeated"
    )
    parser.add_argument(
        "--exception",
        action="append",
        default=[],
        metavar="SOURCE/CASE=CLASS,CLASS",
        help="a case that lacks classes which its source otherwise annotates; may be repeated",
    )
    parser.add_argument("--exceptions", metavar="FILE", help='JSON: {"SOURCE/CASE": ["CLASS", ...], ...}')
    add_orientation_argument(
        parser, "turn all images and label maps so that x, y and z run towards right, anterior, superior (or LPS, ...)"
    )
    add_group_argument(parser)
    parser.add_argument(
        "--leave_one_dataset_out",
        action="store_true",
        help="one fold per source, validated on it and trained on all others; cases that belong with cases of it "
        "(copies of an image, --group) are on neither side",
    )
    parser.add_argument("--copy", action="store_true", help="copy images (otherwise they are linked)")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing dataset of this ID and name")
    parser.add_argument("-np", type=count, default=default_processes(), metavar="N", help="number of processes")
    return parser


def _run(arguments: argparse.Namespace) -> None:
    from nnunetv2_ext.dataset_conversion.merge import merge_datasets
    from nnunetv2_ext.dataset_conversion.merge_plan import MergeOptions, read_exceptions_file

    exceptions = _assignments("--exception", arguments.exception)
    if arguments.exceptions:
        exceptions = read_exceptions_file(arguments.exceptions) | exceptions
    merge_datasets(
        arguments.datasets,
        arguments.dataset_id,
        arguments.name,
        options=MergeOptions(
            share=_assignments("--share", arguments.share),
            select=arguments.select,
            rename={old: names[0] for old, names in _assignments("--rename", arguments.rename, single=True).items()},
            exceptions=exceptions,
        ),
        copy=arguments.copy,
        group=arguments.group,
        orientation=arguments.orientation,
        leave_one_dataset_out=arguments.leave_one_dataset_out,
        overwrite=arguments.overwrite,
        processes=arguments.np,
        progress=not arguments.quiet,
    )


def _assignments(option: str, texts: Sequence[str], single: bool = False) -> dict[str, list[str]]:
    """``["a=b,c"]`` -> ``{"a": ["b", "c"]}``."""
    assignments: dict[str, list[str]] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        names = [value.strip()] if single else [name.strip() for name in value.split(",")]
        if not equals or not key.strip() or not all(names):
            raise UserError(f"Expected {option} NAME=VALUE, but got {text!r}.")
        if key.strip() in assignments:
            raise UserError(f"{option} names {key.strip()!r} twice; write it once.")
        assignments[key.strip()] = names
    return assignments
