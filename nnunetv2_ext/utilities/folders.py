"""Folders that appear whole or not at all, and sources that no target replaces."""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.files import disk_errors_named, flush, refuse_existing, umask, writing_in
from nnunetv2_ext.utilities.locks import output_lock


@contextmanager
def folder_under_construction(
    target: Path | str, *, overwrite: bool = True, sources: Iterable[Path | str] = ()
) -> Iterator[Path]:
    """Yields a hidden folder beside ``target`` that takes its place when the block succeeds and vanishes when it fails.

    Nobody else may build it meanwhile. An existing ``target`` stays until the new one is complete.

    Args:
        target: The folder.
        overwrite: Whether an existing one may be replaced.
        sources: What it is made from, which it must not replace.

    Raises:
        UserError: The target exists and may not be replaced, overlaps with a source, or another run builds it; its
            folder cannot be made or written, there is a file in its place, or the disk takes no more.
    """
    refuse_overlap(sources, target)
    # The folder that a link names is replaced, not the link.
    target = Path(target).resolve() if Path(target).is_symlink() else Path(target)
    with output_lock(target) as still_ours:
        refuse_existing(target, overwrite)
        # A file in its place is named.
        with writing_in(target if target.exists() else target.parent):
            folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
        try:
            folder.chmod(0o777 & ~umask())
            with disk_errors_named(target):
                yield folder
                for path in (*folder.rglob("*"), folder):
                    if not path.is_symlink() and (path.is_file() or path.is_dir()):
                        flush(path)
                # Hours later, somebody may have made the folder by other means or broken the lock.
                still_ours()
                refuse_existing(target, overwrite)
                _take_place(folder, target)
                flush(target.parent)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def refuse_overlap(sources: Iterable[Path | str], target: Path | str, *, above: bool = True) -> None:
    """Refuses a target that is, is inside or is above something that it is made from.

    Args:
        sources: Files and folders that are read.
        target: What is written.
        above: Whether a folder above a source is refused as well: what is replaced, unlike what is filled, loses what
            it holds.

    Raises:
        UserError: They overlap.
    """
    for source in map(Path, sources):
        if _is_within(target, source) or (above and _is_within(source, target)):
            raise UserError(
                f"Expected results apart from what they are made from, but {target} and {source} overlap; choose "
                "another place for the results."
            )


def _is_within(inner: Path | str, outer: Path | str) -> bool:
    """Whether one path is the other or lies below it, by whatever names and links."""
    inner, outer = (Path(os.path.realpath(path)) for path in (inner, outer))
    if not outer.exists():
        return outer in (inner, *inner.parents)
    return any(path.exists() and path.samefile(outer) for path in (inner, *inner.parents))


def _take_place(folder: Path, target: Path) -> None:
    """Gives a folder the name of another one, if there is one, which is left behind under the first one's name."""
    if not target.exists():
        folder.rename(target)
    elif not _exchange(folder, target):
        old = folder.with_suffix(".old")
        target.rename(old)
        try:
            folder.rename(target)
        except BaseException:
            old.rename(target)
            raise
        old.rename(folder)


def _exchange(one: Path, other: Path) -> bool:
    """Swaps two names in one step where system and file system can; tells whether they did."""
    if sys.platform != "linux":
        return False
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    at_cwd, rename_exchange = -100, 2
    return renameat2 is not None and not renameat2(
        at_cwd, os.fsencode(one), at_cwd, os.fsencode(other), rename_exchange
    )
