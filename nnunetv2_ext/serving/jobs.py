"""Jobs on disk, in SQLite: what was accepted survives the end of the process, and ends once."""

from __future__ import annotations

import json
import secrets
import sqlite3
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunetv2_ext.serving.errors import RefusedError
from nnunetv2_ext.utilities.errors import UserError

#: In the order in which a job goes through them; it ends in one of the last two.
STATES = ("waiting", "running", "done", "failed")

# A job during which the server died so often is what it dies of.
_MOST_ATTEMPTS = 3

_TABLE = """
CREATE TABLE IF NOT EXISTS jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    model TEXT NOT NULL,
    output_types TEXT NOT NULL,
    preview INTEGER NOT NULL,
    state TEXT NOT NULL DEFAULT 'waiting',
    progress REAL NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0,
    created REAL NOT NULL,
    started REAL,
    ended REAL,
    error TEXT
)
"""
_COLUMNS = "id, model, output_types, preview, state, progress, attempts, created, started, ended, error"


@dataclass(frozen=True)
class Job:
    """What is known of a job; times are seconds since 1970.

    Attributes:
        id: Random, and all that tells jobs apart: also the name of its folder.
        model: Name of a model of this server.
        output_types: Formats of its label maps.
        preview: Whether there is to be a picture.
        state: One of `STATES`.
        progress: Which part of the network's work is done, 0 to 1.
        attempts: How often it was begun.
        created: When it was accepted.
        started: When it was begun, the last time.
        ended: When it ended.
        error: Why it failed.
    """

    id: str
    model: str
    output_types: tuple[str, ...]
    preview: bool = False
    state: str = "waiting"
    progress: float = 0.0
    attempts: int = 0
    created: float = 0.0
    started: float | None = None
    ended: float | None = None
    error: str | None = None

    @property
    def has_ended(self) -> bool:
        """Whether nothing will happen to it any more."""
        return self.state in STATES[2:]


def new_id() -> str:
    """A name that nobody can guess."""
    return secrets.token_hex(16)


class JobStore:
    """The jobs of a server, and the folder of each.

    Args:
        folder: Where they lie: on a disk of this machine, since SQLite's log does not suit network file systems.

    Raises:
        UserError: The file there is no such table.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        try:
            self._connection = sqlite3.connect(
                folder / "jobs.sqlite", timeout=30, isolation_level=None, check_same_thread=False
            )
            # Changes are on the disk when they return; the log beside the file lets the worker write, too.
            for line in ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL", _TABLE):
                self._connection.execute(line)
        except sqlite3.DatabaseError as error:
            raise UserError(
                f"Expected jobs of a server in {folder / 'jobs.sqlite'}, but it cannot be read ({error}); choose "
                "another folder."
            ) from None

    def close(self) -> None:
        """Closes the file."""
        with self._lock:
            self._connection.close()

    def folder_of(self, job_id: str) -> Path:
        """Where the files of a job are."""
        return self.folder / "jobs" / job_id

    def add(self, job: Job, most_waiting: int) -> None:
        """Accepts a job, which from now on survives.

        Raises:
            RefusedError: So many wait already.
        """
        added = self.change(
            "INSERT INTO jobs (id, model, output_types, preview, created) SELECT ?, ?, ?, ?, ? "
            "WHERE (SELECT count(*) FROM jobs WHERE state = 'waiting') < ?",
            (job.id, job.model, json.dumps(job.output_types), job.preview, time.time(), most_waiting),
        )
        if not added:
            raise RefusedError(503, f"Expected at most {most_waiting} jobs to wait, but so many do; try again later.")

    def find(self, job_id: str) -> Job | None:
        """A job by its name."""
        return next(iter(self._jobs("WHERE id = ?", (job_id,))), None)

    def latest(self, number: int) -> list[Job]:
        """The last jobs, the youngest first."""
        return self._jobs("ORDER BY number DESC LIMIT ?", (number,))

    def all(self) -> list[Job]:
        """All jobs."""
        return self._jobs("ORDER BY number")

    def before(self, job: Job) -> int:
        """How many wait before this one does."""
        return int(
            self.rows(
                "SELECT count(*) FROM jobs WHERE state = 'waiting' AND number < (SELECT number FROM jobs WHERE id = ?)",
                (job.id,),
            )[0][0]
        )

    def counts(self) -> dict[str, int]:
        """How many jobs there are in each state."""
        found = dict(self.rows("SELECT state, count(*) FROM jobs GROUP BY state"))
        return {state: int(found.get(state, 0)) for state in STATES}

    def take(self) -> Job | None:
        """Begins the job that waits longest; only one thread of one process may ask."""
        waiting = self._jobs("WHERE state = 'waiting' ORDER BY number LIMIT 1")
        if not waiting:
            return None
        begun = self.change(
            "UPDATE jobs SET state = 'running', started = ?, progress = 0, attempts = attempts + 1 "
            "WHERE id = ? AND state = 'waiting'",
            (time.time(), waiting[0].id),
        )
        return self.find(waiting[0].id) if begun else self.take()

    def advance(self, job_id: str, share: float) -> None:
        """Notes how far a job is."""
        self.change("UPDATE jobs SET progress = ? WHERE id = ? AND state = 'running'", (share, job_id))

    def end(self, job_id: str, error: str | None = None) -> bool:
        """Ends a running job, for good; whether it was running."""
        return self.change(
            "UPDATE jobs SET state = ?, error = ?, ended = ?, progress = ? WHERE id = ? AND state = 'running'",
            ("done" if error is None else "failed", error, time.time(), float(error is None), job_id),
        )

    def resume(self) -> None:
        """What was running when the server died waits again, at its old place; but not for ever."""
        self.change(
            "UPDATE jobs SET state = 'failed', ended = ?, error = ? WHERE state = 'running' AND attempts >= ?",
            (time.time(), f"The server ended {_MOST_ATTEMPTS} times while it predicted this.", _MOST_ATTEMPTS),
        )
        self.change("UPDATE jobs SET state = 'waiting', progress = 0 WHERE state = 'running'")

    def remove(self, job_id: str) -> bool:
        """Forgets a job that does not run; whether there was one."""
        return self.change("DELETE FROM jobs WHERE id = ? AND state != 'running'", (job_id,))

    def ended_before(self, when: float) -> list[Job]:
        """Jobs that ended earlier."""
        return self._jobs("WHERE ended < ?", (when,))

    def _jobs(self, condition: str, values: Sequence[Any] = ()) -> list[Job]:
        rows = self.rows(f"SELECT {_COLUMNS} FROM jobs {condition}", values)
        return [Job(row[0], row[1], tuple(json.loads(row[2])), bool(row[3]), *row[4:]) for row in rows]

    def rows(self, query: str, values: Sequence[Any] = ()) -> list[Any]:
        """What a query finds."""
        with self._lock:
            return self._connection.execute(query, values).fetchall()

    def change(self, query: str, values: Sequence[Any] = ()) -> bool:
        """Runs one statement, which is on the disk when this returns; whether it changed anything."""
        with self._lock:
            return self._connection.execute(query, values).rowcount > 0
