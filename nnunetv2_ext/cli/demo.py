"""``nnUNetv2_ext_demo``: a guided tour on generated data."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from nnunetv2_ext.cli._command import make_parser, run_command


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; see `nnunetv2_ext.demo.tour`."""
    parser = make_parser(
        "nnUNetv2_ext_demo",
        "Takes the way from partially annotated datasets to a fine-tuned and evaluated model, on CT phantoms that it "
        "generates: about ten minutes on two CPU cores. Every step is printed as the command that it stands for.",
    )
    parser.add_argument(
        "--output", type=Path, default=Path("nnUNetv2_ext_demo"), metavar="DIR", help="new folder for everything"
    )
    parser.add_argument(
        "--keep", action="store_true", help="keep data and models too, not only the table, the evaluations and the logs"
    )
    parser.add_argument("-device", choices=("cpu", "cuda", "mps"), default="cpu", help="where networks run")
    return run_command(parser, _run, argv)


def _run(arguments: argparse.Namespace) -> None:
    from nnunetv2_ext.demo.tour import as_text, take_tour

    print(as_text(take_tour(arguments.output, keep=arguments.keep, device=arguments.device)))
