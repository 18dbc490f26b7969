"""The judge's end of the server: starts commands, signals them, waits for them."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# More than any command needs for the tiny data of the tries, and less than would hurt a machine of 16 GB.
MEMORY = 6 << 30
#: Exit code of a command that was ended: it had waited for this long without doing anything, or worked for too long.
LATE = -9999
STUCK_SECONDS = 12.0


def console_scripts(package: Path) -> dict[str, str]:
    """Name -> entry point of every console script that the package's pyproject.toml declares."""
    text = (package / "pyproject.toml").read_text(encoding="utf-8")
    section = re.search(r"^\[project\.scripts\]\n(.*?)(?=^\[)", text, re.MULTILINE | re.DOTALL)
    if section is None:
        raise ValueError(f"{package} declares no console scripts.")
    return dict(re.findall(r'^(\w+) = "([\w.:]+)"', section[1], re.MULTILINE))


@dataclass
class Process:
    """A command that was started.

    Attributes:
        log: What it prints, both streams.
        pid: Of the process; its session has the same number.
        code: Exit code, negative for a signal, `LATE` if it was ended for being late; None while it runs.
        cpu_seconds: How long the CPUs worked for it.
    """

    log: Path
    pid: int = 0
    code: int | None = None
    cpu_seconds: float = 0.0
    _started: threading.Event = field(default_factory=threading.Event)
    _ended: threading.Event = field(default_factory=threading.Event)

    def wait(self, seconds: float | None = None) -> int | None:
        """Waits for the end; None if it does not come in time."""
        self._ended.wait(seconds)
        return self.code

    def wait_or_end(self, cpu_seconds: float, enough: str = "") -> None:
        """Waits for the end of a command, and ends one that hangs.

        Seconds of work are counted and not those of the clock, so that a busy machine makes no command late.

        Args:
            cpu_seconds: How long it may work.
            enough: A text after whose output the command has taken its input, and is ended for the sake of time.
        """
        before, moved = 0.0, time.monotonic()
        while not self._ended.wait(0.3 if enough else 1.0):
            if enough and enough in self.output():
                self.send(signal.SIGKILL, group=True)
                self._ended.wait(10)
                self.code = 0
                return
            now = self._work()
            # Less than before, too, is a sign of life: a worker has ended.
            if now != before:
                before, moved = now, time.monotonic()
            if now > cpu_seconds or time.monotonic() - moved > STUCK_SECONDS:
                self.send(signal.SIGKILL, group=True)
                self._ended.wait(10)
                self.code = LATE

    def _work(self) -> float:
        """Seconds that the CPUs have worked for the processes of its session."""
        ticks = 0
        for pid in self.family():
            with contextlib.suppress(OSError, ValueError):
                fields = Path("/proc", str(pid), "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
                ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def send(self, number: int, group: bool = False) -> None:
        """Sends a signal to the process, or to all of its group as a terminal does."""
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if group else os.kill)(self.pid, number)

    def output(self) -> str:
        """What it has printed so far."""
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""

    def family(self) -> list[int]:
        """Live processes of its session, itself included."""
        found = []
        for entry in os.scandir("/proc"):
            if entry.name.isdigit():
                with contextlib.suppress(OSError, ValueError):
                    fields = Path(entry.path, "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
                    if int(fields[3]) == self.pid and fields[0] not in "ZX":
                        found.append(int(entry.name))
        return sorted(found)

    def leftovers(self, seconds: float = 8) -> list[int]:
        """Processes of its session that are still there this long after its end; they are ended."""
        deadline = time.monotonic() + seconds
        while (family := self.family()) and time.monotonic() < deadline:
            time.sleep(0.05)
        for pid in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return family


class Server:
    """The process that forks commands; see `server.py`.

    Args:
        package: Folder of the package that is attacked.
        scratch: Folder for its home and caches.
    """

    def __init__(self, package: Path, scratch: Path) -> None:
        self.scripts = console_scripts(package)
        self._log = open(scratch / "server.log", "wb")  # noqa: SIM115
        environment = {name: value for name, value in os.environ.items() if not name.lower().startswith("nnunet")}
        environment |= {
            "PYTHONPATH": str(package),
            "HOME": str(scratch),
            "MPLCONFIGDIR": str(scratch / "matplotlib"),
            "NUMBA_CACHE_DIR": str(scratch / "numba"),
            "CUDA_VISIBLE_DEVICES": "",
            "nnUNet_n_proc_DA": "0",
            "nnUNet_def_n_proc": "1",
            "nnUNet_compile": "f",
            **{f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL", "NUMBA", "ITK_GLOBAL")},
        }
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("server.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment,
            cwd=scratch,
        )
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._processes: dict[int, Process] = {}
        self.ready = threading.Event()
        self.dead = threading.Event()
        threading.Thread(target=self._listen, daemon=True).start()

    def start(
        self,
        command: str,
        argv: Sequence[str],
        *,
        folder: Path,
        log: Path,
        environment: Mapping[str, str],
        seconds: float,
        limits: Mapping[str, int] | None = None,
        obeys_permissions: bool = False,
    ) -> Process:
        """Starts a command, given without ``nnUNetv2_ext_``."""
        self.ready.wait()
        if self.dead.is_set():
            raise RuntimeError(f"The server has died; see {self._log.name}.")
        name = f"nnUNetv2_ext_{command}"
        process = Process(log)
        number = next(self._numbers)
        request = {
            "id": number,
            "command": name,
            "entry": self.scripts[name],
            "argv": list(argv),
            "folder": str(folder),
            "log": str(log),
            "environment": dict(environment),
            "seconds": seconds,
            "limits": {"RLIMIT_DATA": MEMORY, "RLIMIT_CORE": 0, **(limits or {})},
            "obeys_permissions": obeys_permissions,
        }
        with self._lock:
            self._processes[number] = process
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        process._started.wait(60)
        return process

    def close(self) -> None:
        """Ends the server and what it still runs."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._log.close()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            answer: dict[str, Any] = json.loads(line)
            if answer["event"] == "ready":
                self.ready.set()
                continue
            process = self._processes[answer["id"]]
            if answer["event"] == "started":
                process.pid = answer["pid"]
                process._started.set()
            else:
                process.code = LATE if answer["late"] else answer["code"]
                process.cpu_seconds = answer["cpu"]
                process._ended.set()
        self.dead.set()
        self.ready.set()
        for process in self._processes.values():
            process._started.set()
            process._ended.set()
