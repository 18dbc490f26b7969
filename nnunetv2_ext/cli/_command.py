"""What all commands share: the parser's look, logging, and exit codes.

A command module holds ``main(argv=None) -> int`` and calls `run_command`. Imports of torch and nnU-Net belong inside
the function that does the work, so that ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from types import FrameType
from typing import Any

from nnunetv2_ext.utilities.errors import UserError, disk_error
from nnunetv2_ext.utilities.names import printable

EXIT_BATCH_HAD_FAILURES = 1
EXIT_USER_ERROR = 2
EXIT_SIGNAL = 128
"""Added to the number of the signal that ended a command, as shells do: 130 after Ctrl-C, 143 after SIGTERM."""

# Batch systems end jobs with SIGTERM, terminals that close with SIGHUP, and Windows has a Ctrl-Break.
_ENDING_SIGNALS = [number for number in signal.Signals if number.name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")]


class _EndedBySignal(KeyboardInterrupt):
    """Ctrl-C and the other signals that end a command: whatever tidies up after one does so after all."""


class _PrintableFormatter(logging.Formatter):
    """Names from files may hold what moves a terminal's cursor."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """States defaults that say something: not that a flag is off, or that nothing is given where nothing is needed."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or action.default is False or action.default == []:
            return action.help
        text = super()._get_help_string(action)
        if isinstance(action.default, list) and text:
            return text.replace("%(default)s", " ".join(map(str, action.default)))
        return text


def make_parser(prog: str, description: str) -> argparse.ArgumentParser:
    """An argument parser with ``-v/--verbose`` and ``--quiet``."""
    parser = argparse.ArgumentParser(prog=prog, description=description, formatter_class=_HelpFormatter)
    volume = parser.add_mutually_exclusive_group()
    volume.add_argument("-v", "--verbose", action="store_true", help="say more; show the traceback of an error")
    volume.add_argument("--quiet", action="store_true", help="say nothing but warnings and errors; no progress bars")
    return parser


def run_command(
    parser: argparse.ArgumentParser,
    run: Callable[[argparse.Namespace], int | None],
    argv: Sequence[str] | None = None,
) -> int:
    """Parses arguments, sets logging up, calls ``run`` and turns its outcome into an exit code.

    Returns:
        What ``run`` returned (``None`` counts as 0); 2 with a sentence, after a `UserError` or on a full disk; 130
        after Ctrl-C, 143 after SIGTERM. Any other exception is a defect of this package and keeps its traceback.
    """
    arguments = parser.parse_args(argv)
    level = logging.DEBUG if arguments.verbose else logging.WARNING if arguments.quiet else logging.INFO
    _set_up_logging(level)
    for stream in (sys.stdout, sys.stderr):
        # File names need not be text in the language of the terminal.
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        with _orderly_ends():
            code = run(arguments) or 0
        # Here, so that an output that cannot be written is told as any other.
        sys.stdout.flush()
        return code
    except SystemExit as end:
        # Work that stopped before its end and knows with which code.
        if isinstance(end.code, int):
            return end.code
        raise
    except BrokenPipeError:
        # The reader of our output has gone (``... | head``).
        _flush_or_silence_stdout()
        return EXIT_BATCH_HAD_FAILURES
    except (UserError, OSError) as error:
        sentence = disk_error(error) if isinstance(error, OSError) else str(error)
        if sentence is None:
            raise
        if arguments.verbose:
            logging.getLogger("nnunetv2_ext").exception("Traceback of the error below:")
        print(f"{parser.prog}: {printable(sentence)}", file=sys.stderr)
        _flush_or_silence_stdout()
        return EXIT_USER_ERROR
    except KeyboardInterrupt as end:
        number = signal.Signals(end.args[0] if isinstance(end, _EndedBySignal) else signal.SIGINT)
        print(f"{parser.prog}: ended by {number.name}.", file=sys.stderr)
        return EXIT_SIGNAL + number


def count(text: str) -> int:
    """The type of arguments that say how many: a whole number that is not negative."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a number of at least 0, but got {text!r}")
    return int(text)


def add_orientation_argument(parser: argparse.ArgumentParser, help_text: str) -> None:
    """``--orientation`` of the commands that know or decide how images lie."""
    parser.add_argument("--orientation", type=_axis_codes, metavar="RAS", help=help_text)


def _axis_codes(text: str) -> str:
    from nnunetv2_ext.labels.dataset_json import AXIS_CODES

    if not AXIS_CODES.fits(text.upper()):
        raise argparse.ArgumentTypeError(
            f"expected what x, y and z run towards, as in RAS (right, anterior, superior) or LPS, but got {text!r}"
        )
    return text.upper()


def add_group_argument(parser: argparse.ArgumentParser) -> None:
    """``--group`` of the commands that write folds."""
    parser.add_argument(
        "--group",
        metavar="FILE_OR_PATTERN",
        help="keep the cases of one patient in one fold: JSON or CSV (case, patient), or a regular expression that "
        "finds the patient in the name of a case, such as '(.*)_visit'",
    )


def print_table(rows: Iterable[tuple[str, str]]) -> None:
    """Prints rows of a name and what there is to say of it."""
    rows = list(rows)
    width = max((len(name) for name, _ in rows), default=0)
    for name, description in rows:
        print(f"{name:<{width}}  {description}".rstrip())


@contextmanager
def _orderly_ends() -> Iterator[None]:
    """Makes exceptions of the signals that end a command, so that it removes what is half-written and ends workers."""
    before = {number: signal.getsignal(number) for number in _ENDING_SIGNALS}

    owner = os.getpid()

    def end(number: int, _: FrameType | None) -> None:
        if os.getpid() != owner:
            # Processes that nnU-Net forks end as they would without us.
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        # Nothing but an impatient Ctrl-C disturbs the tidying up.
        for each in handled:
            signal.signal(each, signal.default_int_handler if each == signal.SIGINT else signal.SIG_IGN)
        raise _EndedBySignal(number)

    # nohup lets SIGHUP be ignored; only the main thread may handle signals.
    usual = (signal.SIG_DFL, signal.default_int_handler)
    in_main_thread = threading.current_thread() is threading.main_thread()
    handled = [number for number, handler in before.items() if in_main_thread and handler in usual]
    for number in handled:
        _replaced_handlers[number] = before[number]
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in handled:
            signal.signal(number, _replaced_handlers.pop(number))


# nnU-Net's pools fork, end their workers by SIGTERM and wait for them. Python forgets a signal that comes to a handler
# of its own while it forks, and the worker would live for ever: signals wait until the fork has the usual handlers.
_replaced_handlers: dict[int, Any] = {}


def _hold_signals() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, _replaced_handlers)


def _release_signals() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _replaced_handlers)


def _release_signals_in_fork() -> None:
    for number, handler in _replaced_handlers.items():
        signal.signal(number, handler)
    _release_signals()
    _replaced_handlers.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_hold_signals, after_in_parent=_release_signals, after_in_child=_release_signals_in_fork)


def _flush_or_silence_stdout() -> None:
    """Gives a stdout that takes no more a sink: Python flushes it once more at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _set_up_logging(level: int) -> None:
    """Shows the package's own log on standard error as plain sentences; other libraries keep their settings."""
    logger = logging.getLogger("nnunetv2_ext")
    logger.setLevel(level)
    logger.propagate = False
    logger.handlers.clear()
    handler = logging.StreamHandler()
    handler.setFormatter(_PrintableFormatter("%(message)s"))
    logger.addHandler(handler)
