"""The one gate for strings from files that become parts of paths, commands to paste, lines of a log or headers."""

from __future__ import annotations

import itertools
import logging
import re
import shlex
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nnunetv2_ext.utilities.errors import UserError

_logger = logging.getLogger(__name__)

#: Endings of images that nnU-Net reads and this package writes: of volumes, then of pictures.
FILE_ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha", ".gipl", ".png", ".bmp", ".tif", ".tiff")

# File systems take 255 bytes, of which endings, channel numbers and marks of temporary files need some.
_MOST_BYTES = 200
_MOST_LETTERS_SHOWN = 100

# Files and folders that nnU-Net or this package put where cases lie.
_TAKEN_BY_FILES = {
    *("dataset", "dataset_fingerprint", "encoded", "labels", "plans", "previews", "report", "settings"),
    *("splits_final", "statistics", "summary"),
}
_TAKEN_BY_WINDOWS = {
    "con",
    "prn",
    "aux",
    "nul",
    *(f"{port}{number}" for port in ("com", "lpt") for number in range(10)),
}


def checked_name(name: Any, what: str) -> str:
    """A name that may become part of a path or of a command, as it is.

    Args:
        name: What a file or the user says.
        what: Whose name it is, for the message.

    Raises:
        UserError: It is not made of the letters a to z, digits, ``_``, ``.`` and ``-``, begins with a dot or a dash, or
            is too long.
    """
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*", name) or len(name) > _MOST_BYTES:
        raise UserError(
            f"Expected {what} of letters, digits, '_', '-' and '.' (ASCII, at most {_MOST_BYTES}, not '-' or '.' at "
            f"first), but got {quoted(name)}; choose another name."
        )
    return name


def checked_ending(ending: Any, where: Path | str) -> str:
    """The ``file_ending`` of a dataset.json, as it is.

    Raises:
        UserError: Images with this ending cannot be written.
    """
    if not isinstance(ending, str) or ending.lower() not in FILE_ENDINGS:
        raise UserError(
            f"Expected one of {', '.join(FILE_ENDINGS)} as 'file_ending' in {where}, but found {quoted(ending)}; "
            "convert the images."
        )
    return ending


def check_label_names(names: Iterable[Any], where: Path | str) -> None:
    """Refuses names of classes and sources that a header, a table or a terminal would garble.

    Raises:
        UserError: A name is blank, holds control characters, or is no text.
    """
    for name in names:
        if not is_label_name(name):
            raise UserError(
                f"Expected names of printable characters in {where}, but found {quoted(name)}; rename it there."
            )


def is_label_name(name: Any) -> bool:
    """Whether this is a text of printable characters, and not blank."""
    return isinstance(name, str) and name.isprintable() and bool(name.strip())


def file_name(text: str) -> str:
    """A class or source name as the name of a file: letters of every script, digits, ``-``, ``_``, ``.`` and ``+``.

    Raises:
        UserError: It is too long.
    """
    return _admitted(text, "_")


def case_names(wanted: Iterable[str]) -> dict[str, str]:
    """What cases are called in a dataset, all of them at once, so that no two get the same name.

    Letters of every script stay; whatever else is odd in a file name becomes ``_``. Names that nnU-Net or this package
    take for something else than a case (``x_seg`` for the segmentation of ``x``) get a ``_`` at their end, and of
    several names that become the same all but the first are numbered.

    Args:
        wanted: What their source calls them; what is repeated there stays repeated.

    Returns:
        Wanted name -> name.

    Raises:
        UserError: A name is too long.
    """
    names = {text: _case_name(text) for text in sorted(set(wanted))}
    taken, given = set(names.values()), set()
    # Those that need no change come first: they keep their names whatever is beside them.
    for text in sorted(names, key=lambda text: names[text] != text):
        name = names[text]
        if name in given:
            name = next(new for number in itertools.count(2) if (new := f"{name}_{number}") not in taken)
        names[text] = name
        taken.add(name)
        given.add(name)
    changed = [f"{quoted(text)} -> {quoted(name)}" for text, name in names.items() if text != name]
    if changed:
        more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
        _logger.warning("Names that files of cases cannot have were changed: %s%s", ", ".join(changed[:5]), more)
    return names


def refuse_equal_names(files: Iterable[tuple[str, Path]]) -> None:
    """Checks that no two inputs would become one output.

    Args:
        files: Name of the output, and input.

    Raises:
        UserError: A name is there twice.
    """
    seen: dict[str, Path] = {}
    for name, file in files:
        if name in seen:
            raise UserError(
                f"Expected one file per case, but both {quoted(seen[name])} and {quoted(file)} are called "
                f"{quoted(name)}; rename or move one of them."
            )
        seen[name] = file


def printable(text: object) -> str:
    """A text without what moves a terminal's cursor: control characters but line breaks and tabs become escapes."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else ascii(letter)[1:-1] for letter in str(text))


def quoted(text: object) -> str:
    """A text in one line, as a shell takes it for one word; shortened where it is long."""
    line = printable(text).replace("\n", "\\n").replace("\t", "\\t")
    return shlex.quote(line if len(line) <= _MOST_LETTERS_SHOWN else line[:_MOST_LETTERS_SHOWN] + "...")


def _case_name(text: str) -> str:
    name = re.sub("\0+", "_", _admitted(text, "\0"))
    taken = name.casefold() in _TAKEN_BY_FILES or name.endswith("_seg")
    return f"{name}_" if taken else name


def _admitted(text: str, instead: str) -> str:
    kept = (
        letter if unicodedata.category(letter)[0] in "LMN" or letter in "-_.+" else instead
        for letter in unicodedata.normalize("NFC", text)
    )
    name = "".join(kept).lstrip(".-") or "_"
    if len(name.encode()) > _MOST_BYTES:
        raise UserError(f"Expected names of at most {_MOST_BYTES} bytes, but got {quoted(text)}; choose a shorter one.")
    return f"{name}_" if name.split(".")[0].casefold() in _TAKEN_BY_WINDOWS else name
