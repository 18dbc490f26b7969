"""``nnUNetv2_ext_serve``: models that stay loaded, behind HTTP."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from nnunetv2_ext.cli._command import count, make_parser, run_command
from nnunetv2_ext.utilities.errors import UserError

logger = logging.getLogger("nnunetv2_ext.serve")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    parser = make_parser(
        "nnUNetv2_ext_serve",
        "Keeps models loaded and predicts what is sent by HTTP, one scan after the other, until Ctrl-C. Research use "
        "only; not a medical device.",
    )
    parser.add_argument(
        "-m",
        required=True,
        nargs="+",
        metavar="MODEL",
        help="model folders; NAME=FOLDER says what requests call it, else it is called by its dataset",
    )
    parser.add_argument(
        "-o", required=True, type=Path, metavar="FOLDER", help="for jobs and results, on a disk of this machine"
    )
    _add_network_arguments(parser)
    _add_limit_arguments(parser)
    _add_prediction_arguments(parser)
    return run_command(parser, _run, argv)


def _add_network_arguments(parser: argparse.ArgumentParser) -> None:
    network = parser.add_argument_group("who can ask")
    network.add_argument(
        "--host", default="127.0.0.1", help="listen on this address; others can ask only beyond loopback"
    )
    network.add_argument("--port", type=count, default=8000, help="listen here")
    network.add_argument(
        "--token_file",
        type=Path,
        metavar="FILE",
        help="holds the token that requests must carry; needed where others can ask",
    )


def _add_limit_arguments(parser: argparse.ArgumentParser) -> None:
    limits = parser.add_argument_group("what to take on")
    limits.add_argument(
        "--max_upload_mb", type=count, default=2048, metavar="N", help="largest scan, sent or unpacked, in MiB"
    )
    limits.add_argument("--max_waiting", type=count, default=1000, metavar="N", help="how many jobs may wait")
    limits.add_argument(
        "--keep_hours", type=float, default=24.0, metavar="N", help="remove jobs and their results after so long"
    )


def _add_prediction_arguments(parser: argparse.ArgumentParser) -> None:
    how = parser.add_argument_group("how to predict, as nnUNetv2_ext_predict")
    how.add_argument("--mode", choices=("accurate", "fast", "fastest"), default="accurate", help="see there")
    how.add_argument("--disable_tta", action="store_true", help="no mirroring, whatever the mode")
    how.add_argument("-device", metavar="DEVICE", help="cuda, cuda:1, cpu or mps; cuda where there is such a device")
    how.add_argument("--backend", choices=("torch", "openvino", "auto"), default="torch", help="what runs the network")
    how.add_argument("-f", nargs="+", metavar="FOLD", help="folds to average; those that exist if not given")
    how.add_argument("-chk", default="checkpoint_final.pth", metavar="FILE", help="name of the checkpoints")


def _named(models: Sequence[str]) -> dict[str, Path]:
    """Name -> folder."""
    from nnunetv2_ext.utilities.names import checked_name

    named: dict[str, Path] = {}
    for text in models:
        name, separator, folder = text.partition("=")
        if not separator or Path(text).is_dir():
            # Model folders lie in the folder of their dataset.
            name, folder = Path(text).resolve().parent.name, text
        if not Path(folder).is_dir():
            raise UserError(f"Expected a model folder at {folder}, but there is none.")
        if checked_name(name, f"the name of the model {folder}") in named:
            raise UserError(f"Expected models of different names, but two are called {name}; name them NAME=FOLDER.")
        named[name] = Path(folder).resolve()
    return named


def _run(arguments: argparse.Namespace) -> int:
    from nnunetv2_ext.utilities.extras import require_extra

    require_extra("server", "nnUNetv2_ext_serve", "starlette", "uvicorn", "python_multipart")
    if arguments.keep_hours <= 0 or arguments.max_upload_mb < 1 or arguments.max_waiting < 1:
        raise UserError("Expected --keep_hours, --max_upload_mb and --max_waiting above 0; choose larger ones.")
    models = _named(arguments.m)
    from nnunetv2_ext.serving.http.access import LOOPBACK, read_token

    token = None if arguments.token_file is None else read_token(arguments.token_file)
    is_loopback = arguments.host in LOOPBACK
    if token is None and not is_loopback:
        raise UserError(
            f"Expected --token_file with --host {arguments.host}, where others than this machine can ask; write a "
            "token into a file (openssl rand -hex 32), or leave --host out."
        )
    import uvicorn

    from nnunetv2_ext.inference.parts import PredictorSettings
    from nnunetv2_ext.serving.http.app import Application
    from nnunetv2_ext.serving.http.listening import listen
    from nnunetv2_ext.serving.http.monai_label import monai_label_endpoints
    from nnunetv2_ext.serving.service import Limits, Service
    from nnunetv2_ext.serving.worker import ModelChoice

    settings = PredictorSettings(
        mode=arguments.mode,
        mirroring=False if arguments.disable_tta else None,
        device=arguments.device,
        backend=arguments.backend,
    )
    folds = tuple(arguments.f) if arguments.f else None
    choices = [ModelChoice(name, folder, folds, arguments.chk, settings) for name, folder in models.items()]
    limits = Limits(arguments.max_upload_mb << 20, arguments.max_waiting, 3600 * arguments.keep_hours)
    with (
        listen(arguments.host, arguments.port) as (socket, address),
        Service(arguments.o.resolve(), choices, limits) as service,
    ):
        application = Application(service, token, LOOPBACK if is_loopback else (), monai_label_endpoints)
        config = uvicorn.Config(application.asgi, log_config=None, server_header=False, timeout_graceful_shutdown=5)
        logger.info("Serving %s. Research use only; not a medical device.", ", ".join(models))
        print(f"Listening at {address}; Ctrl-C ends.", flush=True)
        uvicorn.Server(config).run(sockets=[socket])
    return 0
