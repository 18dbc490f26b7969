"""Writing files so that a reader never meets half of one."""

from __future__ import annotations

import csv
import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nnunetv2_ext.utilities.errors import UserError, disk_error
from nnunetv2_ext.utilities.validation import Shape, anything, check, shown

_LARGEST_JSON = 1 << 30
_DEEPEST_JSON = 200

# What `tempfile` puts after a prefix, and the suffixes of temporary files and folders.
_RANDOM = r"\.[a-z0-9_]{8}\.(old|tmp(\.\w+){0,2})"
_TEMPORARY = re.compile(r"\..+" + _RANDOM)


@contextmanager
def atomic_path(target: Path | str, check: Callable[[Path], None] | None = None) -> Iterator[Path]:
    """Yields a temporary path beside ``target``, renamed to it when the block succeeds and removed when it fails.

    The temporary name keeps the target's suffixes (``.nii.gz`` stays ``.nii.gz``), because image writers look at them.
    The file is on the disk before it gets its name.

    Args:
        target: The file.
        check: Called with the temporary path when it is written; raises where the file is not what it should be.

    Raises:
        UserError: The folder of ``target`` cannot be made or written, or the disk takes no more.
    """
    target = Path(target)
    suffixes = "".join(Path(target.name.lstrip(".")).suffixes[-2:])
    with writing_in(target.parent):
        handle, name = tempfile.mkstemp(prefix=f".{target.name[:40]}.", suffix=f".tmp{suffixes}", dir=target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        # mkstemp creates files readable by their owner alone; results are to be shared like any other file.
        temporary.chmod(0o666 & ~umask())
        with disk_errors_named(target, temporary):
            yield temporary
            flush(temporary)
            if check is not None:
                check(temporary)
            os.replace(temporary, target)
            flush(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def clear_leftovers(target: Path, inside: bool) -> None:
    """Removes what killed processes have left of files and folders that were to get their names; nobody may write now.

    A folder that had made way for a new one, which then did not come, gets its name back.

    Args:
        target: A file or folder.
        inside: Whether to look within the folder, and not beside the target.
    """
    if inside:
        leftovers = [path for path in target.rglob(".*.tmp*") if _TEMPORARY.fullmatch(path.name)]
    else:
        name = re.escape(f".{target.name}")
        leftovers = [path for path in target.parent.glob(".*") if re.fullmatch(name + _RANDOM, path.name)]
    for path in leftovers:
        if path.suffix == ".old" and not target.exists():
            path.rename(target)
        elif path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Returns when a file, or the names in a folder, are on the disk; Windows offers this for files only."""
    on_windows = os.name == "nt"
    if on_windows and path.is_dir():
        return
    handle = os.open(path, os.O_RDWR if on_windows else os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # File systems that cannot say.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


@contextmanager
def disk_errors_named(target: Path, written: Path | None = None) -> Iterator[None]:
    """Turns what a full or failing disk raises into a sentence about ``target``.

    Libraries have their own exceptions for it, which do not say why; the system is asked by writing on in ``written``.
    """
    try:
        try:
            yield
        except (UserError, OSError):
            raise
        except Exception:
            if written is not None:
                with open(written, "ab") as file:
                    file.write(bytes(1 << 20))
                    os.fsync(file.fileno())
            raise
    except OSError as error:
        if (sentence := disk_error(error, target)) is None:
            raise
        raise UserError(sentence) from error


def input_files(folder: Path) -> list[Path]:
    """What in a folder is neither hidden nor a folder, sorted; links to nowhere and pipes too, which are bad inputs."""
    with os.scandir(folder) as entries:
        # A link that leads to itself is a bad input, which `DirEntry.is_dir` would raise on.
        names = [
            entry.name
            for entry in entries
            if not entry.name.startswith(".")
            and not (Path(entry).is_dir() if entry.is_symlink() else entry.is_dir(follow_symlinks=False))
        ]
    return [folder / name for name in sorted(names)]


def require_writable(folder: Path | str) -> None:
    """Makes a folder for results unless it is there; called before the work, so that this is not done in vain.

    Raises:
        UserError: The folder cannot be made, or no file in it.
    """
    with writing_in(Path(folder)), tempfile.TemporaryFile(dir=folder):
        pass


@contextmanager
def writing_in(folder: Path) -> Iterator[None]:
    """Makes the folder; what fails there or in the block is the user's to mend, who chose the folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except (FileExistsError, NotADirectoryError):
        raise UserError(
            f"Expected a folder for the results at {folder}, but there is a file in its place; choose another."
        ) from None
    except OSError as error:
        raise UserError(
            f"Expected a folder that can be written at {folder}, but writing there fails ({error.strerror}); choose "
            "another."
        ) from None


def umask() -> int:
    """The permissions that the user wants new files to lack; `tempfile` ignores them."""
    wanted = os.umask(0)
    os.umask(wanted)
    return wanted


def write_json(content: Any, target: Path | str) -> None:
    """Writes JSON atomically, indented, keys in the order given.

    Raises:
        UserError: A text holds half a character, as names of files may that are not in UTF-8; see also `atomic_path`.
    """
    try:
        text = f"{json.dumps(content, indent=4, ensure_ascii=False)}\n".encode()
    except UnicodeEncodeError as error:
        around = error.object[max(error.start - 40, 0) : error.end + 40]
        raise UserError(
            f"Expected names in UTF-8 for {target}, but found {around!r}; rename what is so called."
        ) from None
    with atomic_path(target) as temporary:
        temporary.write_bytes(text)


def read_json(source: Path | str, shape: Shape = anything, *, refuse_repeated_names: bool = False) -> Any:
    """Reads a JSON file and checks that it holds what a file of its kind must hold.

    Args:
        source: The file.
        shape: What its content must be.
        refuse_repeated_names: Whether a name that an object holds twice is an error; otherwise the last one counts, as
            everywhere in Python.

    Raises:
        UserError: The file is missing, cannot be read, is not JSON, repeats a name, or holds something else.
    """
    source = Path(source)
    try:
        if not source.exists():
            raise UserError(f"Expected the file {source}, but it does not exist.")
        if not source.is_file() or source.stat().st_size > _LARGEST_JSON:
            raise UserError(f"Expected JSON of at most {_LARGEST_JSON >> 20} MiB in {source}, but it is no such file.")
        content = source.read_bytes()
    except (OSError, ValueError) as error:
        raise UserError(f"Expected JSON in {source}, but it cannot be read ({error}).") from None
    return check(parse_json(content, source, refuse_repeated_names=refuse_repeated_names), shape, source)


def parse_json(text: str | bytes, where: Path | str, *, refuse_repeated_names: bool = False) -> Any:
    """What `read_json` does with the content of a file.

    Raises:
        UserError: The text is not JSON, repeats a name, or is nested deeper than 200 levels.
    """

    def each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(pairs)
        if len(content) < len(pairs):
            repeated = sorted(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
            raise UserError(
                f"Expected every name once in an object of {where}, but {', '.join(map(shown, repeated[:8]))} is there "
                "more often; rename or remove one."
            )
        return content

    try:
        text = text.decode() if isinstance(text, bytes) else text
        content = json.loads(text, object_pairs_hook=each_once if refuse_repeated_names else None)
        _check_depth(content)
        if "\\ud" in text.lower():
            # Halves of characters, which can neither be printed nor written.
            json.dumps(content, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise UserError(f"Expected JSON in {where}, but it cannot be read ({error}).") from None
    return content


def _check_depth(content: Any) -> None:
    """What is nested deeper fits no file that is meant, and no function that calls itself."""
    level, depth = [content], 0
    while level := [part for value in level for part in _parts(value) if isinstance(part, dict | list)]:
        depth += 1
        if depth > _DEEPEST_JSON:
            raise ValueError(f"it is nested deeper than {_DEEPEST_JSON} levels")


def _parts(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def read_table(source: Path, columns: Collection[str], separator: str = ",") -> list[dict[str, str]]:
    """Reads a CSV file with a line of column names.

    Args:
        source: The file.
        columns: Those that must be there; others are left out.
        separator: Between columns.

    Returns:
        A dictionary of these columns per row; columns that a row lacks are empty.

    Raises:
        UserError: The file cannot be read or lacks a column.
    """
    try:
        with source.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, delimiter=separator, restval="")
            missing = [name for name in columns if name not in (reader.fieldnames or ())]
            if missing:
                found = ", ".join(map(shown, (reader.fieldnames or ())[:20])) or "none"
                raise UserError(f"Expected the columns {', '.join(missing)} in {source}, but found {found}.")
            return [{name: row[name].strip() for name in columns} for row in reader]
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"Expected a table (CSV) in UTF-8 in {source}, but it cannot be read ({error}).") from None


def sha256_of(path: Path | str) -> str:
    """SHA-256 of a file as hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def refuse_existing(target: Path | str, overwrite: bool = False) -> None:
    """Raises a `UserError` when ``target`` exists and may not be overwritten."""
    if Path(target).exists() and not overwrite:
        raise UserError(f"{target} exists already; choose another name or pass --overwrite.")
