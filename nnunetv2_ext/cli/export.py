"""``nnUNetv2_ext_export``: a trained network for other software."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from nnunetv2_ext.cli._command import make_parser, run_command


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; see `nnunetv2_ext.model_export.formats`."""
    parser = make_parser(
        "nnUNetv2_ext_export",
        "Export the network of a model folder, with its metadata, and check what was written on random input.",
    )
    parser.add_argument("-m", required=True, type=Path, metavar="MODEL_FOLDER", help="model folder")
    parser.add_argument(
        "-o", required=True, type=Path, metavar="FILE", help="file to write; a folder for --format monai_bundle"
    )
    parser.add_argument(
        "--format",
        required=True,
        choices=("torch_export", "onnx", "torchscript", "monai_bundle"),
        help="torch_export: torch.export (.pt2); onnx: ONNX (needs the extra onnx); torchscript: TorchScript (.ts); "
        "monai_bundle: a folder for MONAI, MONAI Label and 3D Slicer (needs the extra monai)",
    )
    parser.add_argument("-f", dest="fold", metavar="FOLD", help="fold; the first one if not given")
    parser.add_argument("-chk", default="checkpoint_final.pth", metavar="FILE", help="name of the checkpoint")
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")
    return run_command(parser, _run, argv)


def _run(arguments: argparse.Namespace) -> None:
    options = {"fold": arguments.fold, "checkpoint_name": arguments.chk, "overwrite": arguments.overwrite}
    if arguments.format == "monai_bundle":
        from nnunetv2_ext.model_export.monai_bundle import export_monai_bundle

        target = shlex.quote(str(export_monai_bundle(arguments.m, arguments.o, **options)))
        print(f"Wrote the bundle {target}. Run it with:")
        print(
            f"python -m monai.bundle run --config_file {target}/configs/inference.json "
            f"--meta_file {target}/configs/metadata.json --bundle_root {target} --dataset_dir IMAGES --output_dir OUT"
        )
        return
    from nnunetv2_ext.model_export.formats import export_network

    print(f"Wrote {export_network(arguments.m, arguments.o, arguments.format, **options)}.")
