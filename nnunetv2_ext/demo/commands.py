"""Runs the commands of the tour as a user's shell would."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from nnunetv2_ext.utilities.errors import UserError

_LINES_SHOWN_AFTER_A_FAILURE = 25
_TICKER_WIDTH = 100
_LIBC: Any = ctypes.CDLL(None) if sys.platform == "linux" else None


#: Runs a command with variables added to the environment; its output goes to a file.
Runner = Callable[[Sequence[str], Mapping[str, str], Path], None]


def run_as_subprocess(command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
    """Runs the command of this Python installation in a process of its own.

    Raises:
        UserError: The command failed.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "w", encoding="utf-8") as output:
        process = subprocess.Popen(
            [executable(command[0]), *command[1:]],
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            preexec_fn=_end_with_parent if sys.platform == "linux" else None,
        )
        with process:
            code = _wait(process, log)
    if code != 0:
        raise UserError(f"{command[0]} failed with exit code {code}; its output is in {log}:\n{tail(log)}")


def _end_with_parent() -> None:
    """Has Linux send SIGTERM to this process when its parent is killed; other systems let it finish its step."""
    set_parent_death_signal = 1
    _LIBC.prctl(set_parent_death_signal, signal.SIGTERM)


def _wait(process: subprocess.Popen[bytes], log: Path) -> int:
    """Waits for the end; on a terminal, shows the last line of the log meanwhile. Ctrl-C ends the command too."""
    with tqdm(disable=None, leave=False, bar_format="   {elapsed}  {desc}") as ticker:
        try:
            while True:
                try:
                    return process.wait(timeout=1)
                except subprocess.TimeoutExpired:
                    ticker.set_description_str(tail(log, 1)[-_TICKER_WIDTH:])
        except BaseException:
            process.terminate()
            raise


def executable(name: str) -> str:
    """Path of an installed command: beside the running Python, or on PATH.

    Raises:
        UserError: It is not installed.
    """
    beside = shutil.which(name, path=str(Path(sys.executable).parent))
    found = beside or shutil.which(name)
    if found is None:
        raise UserError(f"Expected the command {name} beside {sys.executable} or on PATH; install nnunetv2-ext again.")
    return found


def tail(log: Path, lines: int = _LINES_SHOWN_AFTER_A_FAILURE) -> str:
    """The last lines of a log."""
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
