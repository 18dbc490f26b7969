"""One run at a time writes an output: two would replace or mix each other's results.

Whoever writes holds a file in a hidden folder, inside the output folder or beside an output that appears at once. The
system's own lock holds it and lets go when the process ends, on whatever machine; on file systems without locks it is
the file's existence, and filelock tells by process and host when its owner has died.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from datetime import datetime
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.files import clear_leftovers, writing_in

logger = logging.getLogger(__name__)

LOCK_FOLDER = ".lock"
_GATE, _GATE_SECONDS, _HOLDERS = "gate", 60, "[0-9]*of[0-9]*"
_held: ContextVar[frozenset[Path]] = ContextVar("held", default=frozenset())


@contextmanager
def output_lock(
    target: Path | str,
    *,
    inside: bool = False,
    part: tuple[int, int] = (0, 1),
    agree: Callable[[bool], None] | None = None,
    wait: bool = False,
) -> Iterator[Callable[[], None]]:
    """Holds the right to write an output; what dead processes have left behind of it is cleared away first.

    Within itself, in the same thread, the lock can be taken again.

    Args:
        target: A file or folder.
        inside: Whether the folder is filled file by file, and not built elsewhere and moved.
        part: (index, number of parts); runs of different parts of one number may write at the same time.
        agree: Called before anything is written, while no other run can start, with whether this is the only one;
            raises where this one does not fit what is there.
        wait: Whether to wait for the end of another run instead of refusing.

    Yields:
        A function that raises a `UserError` where somebody has taken the lock away.

    Raises:
        UserError: Another run writes there, or nothing can be written there.
    """
    target = Path(os.path.realpath(target))
    folder = target / LOCK_FOLDER if inside else target.with_name(f".{target.name}{LOCK_FOLDER}")
    if folder in _held.get():
        yield lambda: None
        return
    own = folder / f"{part[0]}of{part[1]}"
    with ExitStack() as stack:
        while (holder := _enter(target, own, stack, agree, inside)) is not None:
            sentence = f"Expected to be the only run that writes {target}, but {holder} writes there"
            if not wait:
                raise UserError(
                    f"{sentence}; wait for its end or choose another output (if it is gone for good, delete {folder})."
                )
            logger.info("%s; waiting for its end.", sentence)
            time.sleep(2)
        token = _held.set(_held.get() | {folder})
        stack.callback(_held.reset, token)
        me = own.with_suffix(".json").read_text(encoding="utf-8")

        def still_ours() -> None:
            if _holder(own) != me:
                raise UserError(f"Expected {folder} to stay while this run writes {target}, but it was taken away.")

        yield still_ours


def _enter(target: Path, own: Path, stack: ExitStack, agree: Callable[[bool], None] | None, inside: bool) -> str | None:
    """Takes the lock, or tells who stands against it."""
    folder = own.parent
    with _gate(folder):
        others = [lock for lock in folder.glob(_HOLDERS) if not lock.suffix and _is_held(lock)]
        number = own.name.partition("of")[2]
        for other in others:
            if other == own or other.name.partition("of")[2] != number:
                return _holder(other)
        if not others:
            clear_leftovers(target, inside)
        if agree is not None:
            agree(not others)
        lock = _acquire(own, 0)
        stack.callback(_leave, own, lock)
        since = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
        own.with_suffix(".json").write_text(
            f"process {os.getpid()} on {socket.gethostname()}, since {since}", encoding="utf-8"
        )
    return None


def _leave(own: Path, lock: BaseFileLock) -> None:
    with _gate(own.parent):
        lock.release()
        _forget(own)


def _holder(lock: Path) -> str:
    try:
        return lock.with_suffix(".json").read_text(encoding="utf-8")
    except FileNotFoundError:
        return "another process"


def _is_held(lock: Path) -> bool:
    """Whether the process that took a lock lives; the traces of a dead one are removed."""
    try:
        _acquire(lock, 0).release()
    except Timeout:
        return True
    _forget(lock)
    return False


def _forget(lock: Path) -> None:
    for suffix in ("", ".json", ".soft"):
        lock.with_suffix(suffix).unlink(missing_ok=True)


@contextmanager
def _gate(folder: Path) -> Iterator[None]:
    """Only one process at a time compares and writes what is in the folder, which vanishes with its last lock."""
    gate = folder / _GATE
    lock = _acquire_gate(gate)
    try:
        yield
    finally:
        is_last = not any(folder.glob(_HOLDERS))
        if is_last and os.name == "posix":
            # While it is held: whoever waits for it then opens a new one. On Windows an open file stays.
            gate.unlink(missing_ok=True)
        lock.release()
        if is_last:
            # Unless the next one has come already.
            with suppress(OSError):
                folder.rmdir()


def _acquire_gate(gate: Path) -> BaseFileLock:
    deadline = time.monotonic() + 1
    while True:
        with writing_in(gate.parent.parent):
            try:
                gate.parent.mkdir(exist_ok=True)
                return _acquire(gate, _GATE_SECONDS)
            except Timeout:
                raise UserError(
                    f"Expected {gate} to be free within {_GATE_SECONDS} s, but it is not; delete it if nothing runs."
                ) from None
            except (FileNotFoundError, FileExistsError):
                # The last one is just removing the folder.
                if time.monotonic() > deadline:
                    raise


def _acquire(file: Path, timeout: float) -> BaseFileLock:
    lock: BaseFileLock = FileLock(file)
    try:
        lock.acquire(timeout=timeout)
    except OSError as error:
        # filelock itself helps where the system lacks locks (ENOSYS), but not where a file system does.
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP):
            raise
        lock = SoftFileLock(file.with_suffix(".soft"))
        lock.acquire(timeout=timeout)
    return lock
