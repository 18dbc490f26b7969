"""Runs commands of the package, each in a fork of a process that has imported torch, nnU-Net and the package before.

Importing these takes ten seconds, a fork some milliseconds. A request is one line of JSON on standard input; for each,
two lines of JSON are answered: when it has started and when it has ended. This file belongs to the attacked side: it
imports the package, and nothing of the judge.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import importlib
import json
import os
import pkgutil
import resource
import select
import signal
import sys
import threading
import time
import traceback
import types
from typing import Any

# What the commands import at work; monai's and numba's parts come with the package's own modules.
LIBRARIES = (
    "torch", "nibabel", "SimpleITK", "pydicom", "skimage.draw", "skimage.measure", "sklearn.model_selection",
    "matplotlib.pyplot", "monai.networks.nets", "monai.transforms", "safetensors.torch", "blosc2", "filelock",
    "torch._dynamo", "nnunetv2.run.run_training", "nnunetv2.inference.predict_from_raw_data",
    "nnunetv2.experiment_planning.plan_and_preprocess_api", "nnunetv2.training.nnUNetTrainer.nnUNetTrainer",
)  # fmt: skip
POLL = 0.01
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER = 1, 2, 3
PR_CAPBSET_DROP = 24


def main() -> None:
    """Imports everything, says so, and serves requests until standard input is closed."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    # A shell that starts this script in the background has Ctrl-C ignored, and the commands would go on ignoring it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Whatever a library prints while it is imported must not be taken for an answer.
    os.dup2(2, 1)
    _import_everything()
    # What is never collected is never written to, so that forks go on sharing its memory.
    gc.freeze()
    sys.modules["__main__"] = types.ModuleType("__main__")
    print(json.dumps({"event": "ready", "threads": threading.active_count()}), file=answers)
    running: dict[int, tuple[int, float]] = {}
    buffer = b""
    while True:
        if select.select([0], [], [], POLL if running else None)[0]:
            block = os.read(0, 1 << 16)
            if not block:
                break
            *lines, buffer = (buffer + block).split(b"\n")
            for line in lines:
                request = json.loads(line)
                pid = _fork(request)
                running[pid] = (request["id"], time.monotonic() + request["seconds"])
                print(json.dumps({"event": "started", "id": request["id"], "pid": pid}), file=answers)
        for pid, (identifier, deadline) in list(running.items()):
            late = time.monotonic() > deadline
            if late:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)
            ended, status, usage = os.wait4(pid, 0 if late else os.WNOHANG)
            if ended:
                del running[pid]
                code = os.waitstatus_to_exitcode(status)
                seconds = usage.ru_utime + usage.ru_stime
                answer = {"event": "ended", "id": identifier, "code": code, "late": late, "cpu": seconds}
                print(json.dumps(answer), file=answers)
    for pid in running:
        os.killpg(pid, signal.SIGKILL)


def _import_everything() -> None:
    for name in LIBRARIES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    # All of nnU-Net, because its lookups of trainers and readers import all of it.
    for name in ("nnunetv2_ext", "nnunetv2"):
        package = importlib.import_module(name)
        for module in pkgutil.walk_packages(package.__path__, f"{name}.", onerror=lambda _: None):
            # Some modules need what is not installed, or are scripts that do not survive being imported.
            with contextlib.suppress(Exception, SystemExit):
                importlib.import_module(module.name)


def _fork(request: dict[str, Any]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        code = _run(request)
    finally:
        os._exit(code)


def _run(request: dict[str, Any]) -> int:
    """Does in the fork what the console script does in a new interpreter: ``sys.exit(main())``."""
    os.setsid()
    _redirect(request)
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    sys.argv = [request["command"], *request["argv"]]
    for kind, limit in request["limits"].items():
        if kind == "RLIMIT_DATA":
            # Beside what the imports have taken.
            limit += _memory_of_imports()
        resource.setrlimit(getattr(resource, kind), (limit, limit))
    if "RLIMIT_FSIZE" in request["limits"]:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    if request["obeys_permissions"] and os.geteuid() == 0:
        _give_up_power_over_permissions()
    module, function = request["entry"].split(":")
    code: Any
    try:
        code = getattr(importlib.import_module(module), function)()
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
        code = 1
    if isinstance(code, str):
        print(code, file=sys.stderr)
        code = 1
    # As at the end of an interpreter: threads, then atexit (workers of multiprocessing among it), then the streams.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    return int(code or 0)


def _memory_of_imports() -> int:
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmData:"))


def _redirect(request: dict[str, Any]) -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    # From here on the server's pipes are closed: a worker that outlives the command must not keep them open.
    os.closerange(3, 256)
    sys.stdin = os.fdopen(0, "r", closefd=False)
    sys.stdout = os.fdopen(1, "w", closefd=False, encoding="utf-8")
    sys.stderr = os.fdopen(2, "w", closefd=False, encoding="utf-8", errors="backslashreplace")
    vars(sys).update(__stdout__=sys.stdout, __stderr__=sys.stderr)


def _give_up_power_over_permissions() -> None:
    """Takes from root the right to read and write what permissions forbid; everything else stays root's."""
    library = ctypes.CDLL(None, use_errno=True)
    for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER):
        # Worker processes are new programs, to which root would give them back.
        library.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    given_up = (1 << CAP_DAC_OVERRIDE) | (1 << CAP_DAC_READ_SEARCH) | (1 << CAP_FOWNER)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this process
    # Effective, permitted and inheritable ones, twice 32 bits: a container's root may have few.
    data = (ctypes.c_uint32 * 6)()
    library.capget(header, data)
    data[0] &= ~given_up
    data[1] &= ~given_up
    if library.capset(header, data):
        raise OSError(ctypes.get_errno(), "capset")


if __name__ == "__main__":
    main()
