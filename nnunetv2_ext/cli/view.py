"""``nnUNetv2_ext_view``: a scan with label maps in the browser."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from nnunetv2_ext.cli._command import count, make_parser, run_command

logger = logging.getLogger("nnunetv2_ext.view")

#: A file of this many voxels is a few ten megabytes: it can be mailed.
VOXELS_IN_A_FILE = 20_000_000


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    parser = make_parser(
        "nnUNetv2_ext_view",
        "Shows a scan and up to two label maps in three planes, in the browser of this machine, until Ctrl-C; or "
        "writes one HTML file that needs nothing else.",
    )
    parser.add_argument("image", type=Path, help="scan, or folder with a DICOM series")
    parser.add_argument("label_maps", type=Path, nargs="*", help="label maps on its grid, at most two")
    parser.add_argument("--order", metavar="ORDER", help="what the integers mean; default: what the label maps say")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write this file and end")
    parser.add_argument(
        "--voxels", type=count, default=VOXELS_IN_A_FILE, help="with --html: show a part of larger scans' voxels"
    )
    parser.add_argument("--overwrite", action="store_true", help="with --html: replace an existing file")
    parser.add_argument("--port", type=count, default=0, help="listen here; 0: on a free port")
    parser.add_argument("--no_browser", action="store_true", help="say the address, open nothing")
    return run_command(parser, _run, argv)


def _run(arguments: argparse.Namespace) -> int:
    import webbrowser

    from nnunetv2_ext.utilities.errors import UserError
    from nnunetv2_ext.utilities.locks import output_lock
    from nnunetv2_ext.viewer.page import write_view
    from nnunetv2_ext.viewer.scene import read_scene
    from nnunetv2_ext.viewer.server import ViewServer

    target: Path | None = arguments.html
    if target is not None and target.exists() and not arguments.overwrite:
        raise UserError(f"Expected a new file, but {target} exists; give another name, or --overwrite.")
    voxels = None if target is None else max(arguments.voxels, 1)
    scene = read_scene(arguments.image, arguments.label_maps, arguments.order, voxels=voxels)
    title = arguments.image.name
    if target is not None:
        with output_lock(target):
            write_view(scene, title, target)
        logger.info("Wrote %s (%.1f MB).", target, target.stat().st_size / 1e6)
        return 0
    with ViewServer(scene, title, arguments.port) as server:
        print(f"Open {server.address} in a browser of this machine; Ctrl-C ends.", flush=True)
        if not arguments.no_browser:
            webbrowser.open(server.address)
        server.serve_forever()
    return 0
