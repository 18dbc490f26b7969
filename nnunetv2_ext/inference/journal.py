"""What a prediction has finished, a line per case, so that the next run need not read every label map to its end.

A line names the case, the model, and of every label map its size and the time of its last change. The map is on the
disk before its line is, so a line that a crash cut short, or that is not there, costs no more than reading the map.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from nnunetv2_ext.inference.model.folder import Model

FOLDER = "progress"


class Journal:
    """The lines of all parts of a run, and the file that this part adds to.

    Args:
        folder: Of the results.
        part: Number of this part, and of all parts.
        model: What predicts.
    """

    def __init__(self, folder: Path, part: tuple[int, int], model: Model) -> None:
        self._folder, self._model = folder, model
        self._file = folder / FOLDER / f"part{part[0]}of{part[1]}.jsonl"

    def add(self, case: str, files: Sequence[Path]) -> None:
        """Notes that a case is finished."""
        self._file.parent.mkdir(exist_ok=True)
        # One write, which processes of one machine append whole; it begins a line even behind one that was cut short.
        line = "\n" + json.dumps({"case": case, "model": self._digest, "files": self._state(files)}) + "\n"
        descriptor = os.open(self._file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)

    def read(self) -> dict[str, Any]:
        """Case -> the last that was noted of it."""
        entries = {}
        for file in sorted((self._folder / FOLDER).glob("part*.jsonl"), key=os.path.getmtime):
            with open(file, encoding="utf-8", errors="replace") as lines:
                for line in lines:
                    entry = _parsed(line)
                    if isinstance(entry, dict) and isinstance(entry.get("case"), str):
                        entries[entry["case"]] = entry
        return entries

    def judge(self, noted: Any, files: Sequence[Path]) -> bool | None:
        """What a note says of the label maps of a case.

        Returns:
            True: they are those of this model, whole; False: they are those of another model; None: the note is not
            about these files as they are now.
        """
        if not isinstance(noted, dict) or noted.get("files") != self._state(files):
            return None
        return noted.get("model") == self._digest

    @cached_property
    def _digest(self) -> str:
        checkpoints = "".join(sorted(self._model.sha256.values()))
        return hashlib.sha256(checkpoints.encode()).hexdigest()

    def _state(self, files: Sequence[Path]) -> dict[str, list[int]] | None:
        """Path within the folder -> size and time of the last change; None where a file is missing."""
        try:
            found = [(file.relative_to(self._folder).as_posix(), file.stat()) for file in files]
        except FileNotFoundError:
            return None
        return {name: [status.st_size, status.st_mtime_ns] for name, status in found}


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None
