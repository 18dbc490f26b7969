"""The server without HTTP: what accepts jobs, has them predicted one after the other, and forgets them."""

from __future__ import annotations

import logging
import re
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from nnunetv2_ext.images.label_maps import OUTPUT_TYPES
from nnunetv2_ext.serving.errors import RefusedError
from nnunetv2_ext.serving.intake import Intake
from nnunetv2_ext.serving.jobs import Job, JobStore, new_id
from nnunetv2_ext.serving.worker import ModelChoice, ModelDescription, describe, predict, result_folder
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.executors import WorkerDiedError, WorkerProcesses
from nnunetv2_ext.utilities.files import require_writable
from nnunetv2_ext.utilities.locks import output_lock

_logger = logging.getLogger(__name__)

_SECONDS_BETWEEN_LOOKS, _SECONDS_BEFORE_ANEW = 60, 5


@dataclass(frozen=True)
class Limits:
    """What a server takes on.

    Attributes:
        upload_bytes: How large a scan may be, as it is sent and when it is unpacked.
        waiting: How many jobs may wait.
        keep_seconds: How long results stay.
    """

    upload_bytes: int = 2 << 30
    waiting: int = 1000
    keep_seconds: float = 24 * 3600.0


@dataclass
class Counters:
    """What happened since the start."""

    accepted: int = 0
    done: int = 0
    failed: int = 0
    lost_workers: int = 0
    seconds: float = 0.0
    loads: dict[int, int] = field(default_factory=dict)


class Service:
    """Accepts jobs and predicts them, one at a time, in a process of its own; used in a ``with`` block.

    A library that crashes costs that process and the job, which fails; the next job starts another process. What was
    accepted is on the disk: the next start goes on with it.

    Args:
        folder: For jobs and results; made if need be, then readable by this user alone.
        choices: The models.
        limits: What to take on.
        predicting: Where `predict` runs, by default one process.
        checking: Where scans that come in are unpacked and read, by default another process.

    Raises:
        UserError: A model cannot be read, the folder cannot be written or another server uses it.
    """

    def __init__(
        self,
        folder: Path,
        choices: Sequence[ModelChoice],
        limits: Limits | None = None,
        *,
        predicting: Executor | None = None,
        checking: Executor | None = None,
    ) -> None:
        self.folder, self.limits, self.counters = folder, limits or Limits(), Counters()
        self._checking = checking or WorkerProcesses(1)
        self.intake = Intake(folder / "scans", self._checking, self.limits.upload_bytes)
        self.choices = {choice.name: choice for choice in choices}
        self.models: dict[str, ModelDescription] = {}
        self._predicting = predicting or WorkerProcesses(1)
        self._ending, self._news = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="jobs", daemon=True)
        self._opened = ExitStack()

    def __enter__(self) -> Service:
        """Reads the models and goes on with what the last run has left."""
        with ExitStack() as opened:
            is_new = not self.folder.exists()
            require_writable(self.folder)
            if is_new:
                # For scans of patients.
                self.folder.chmod(0o700)
            opened.enter_context(output_lock(self.folder, inside=True))
            self.store = JobStore(self.folder)
            opened.callback(self.store.close)
            for executor in (self._predicting, self._checking):
                opened.callback(executor.shutdown, wait=True, cancel_futures=True)
            for name, choice in self.choices.items():
                self.models[name] = self._read(choice)
            self._clear()
            self._thread.start()
            opened.callback(self._thread.join)
            opened.callback(self._end)
            self._opened = opened.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the worker, also amid a job, which the next start begins again."""
        self._opened.close()

    @property
    def is_working(self) -> bool:
        """Whether jobs are taken up."""
        return self._thread.is_alive()

    def accept(
        self, uploads: Sequence[BinaryIO], model: str, output_types: Iterable[str] = (), *, preview: bool = False
    ) -> Job:
        """Takes a scan in; when this returns, the job is on the disk.

        Args:
            uploads: One image per channel, or one ZIP archive of a DICOM series.
            model: Name of the model.
            output_types: Formats of the label maps; the first one of all by default.
            preview: Whether to draw a picture.

        Raises:
            UserError: The scan cannot be predicted by this model, or something asked for does not exist.
        """
        description = self.model(model)
        kinds = tuple(dict.fromkeys(output_types)) or OUTPUT_TYPES[:1]
        if strange := [kind for kind in kinds if kind not in OUTPUT_TYPES]:
            raise RefusedError(
                422, f"Expected one of {', '.join(OUTPUT_TYPES)} as output_type, but got {strange[0]!r}."
            )
        job = Job(new_id(), model, kinds, preview)
        folder = self.store.folder_of(job.id)
        try:
            self.intake.receive(uploads, folder, len(description.channels), description.admits_2d)
            self.store.add(job, self.limits.waiting)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        self.counters.accepted += 1
        self._news.set()
        return self.job(job.id)

    def model(self, name: str) -> ModelDescription:
        """A model by its name."""
        if name not in self.models:
            raise RefusedError(404, f"Expected one of the models {', '.join(self.models)}, but got {name[:100]!r}.")
        return self.models[name]

    def job(self, job_id: str) -> Job:
        """A job by its name."""
        found = self.store.find(job_id)
        if found is None:
            raise RefusedError(404, "Expected the name of a job, but there is none of that name; was it removed?")
        return found

    def result(self, job: Job, *names: str) -> Path:
        """A file among the results of a job.

        Args:
            job: The job.
            names: What it may be called; all of them are ours.
        """
        if job.state != "done":
            reason = f": {job.error}" if job.error else "; ask again later" if not job.has_ended else ""
            raise RefusedError(409, f"Expected a job that is done, but it is {job.state}{reason}.")
        folder = result_folder(self.store.folder_of(job.id), job)
        found = [folder / name for name in names if (folder / name).is_file()]
        if not found:
            raise RefusedError(404, "Expected a result that was asked for, but this one was not.")
        return found[0]

    def remove(self, job: Job) -> None:
        """Forgets a job that does not run, and deletes its files."""
        if not self.store.remove(job.id) and self.store.find(job.id) is not None:
            raise RefusedError(409, "Expected a job that waits or has ended, but it runs; remove it later.")
        shutil.rmtree(self.store.folder_of(job.id), ignore_errors=True)

    def forget_old(self) -> None:
        """Forgets jobs that ended long ago, and scans that were kept as long."""
        past = time.time() - self.limits.keep_seconds
        for job in self.store.ended_before(past):
            self.remove(job)
        self.intake.forget_old(past)

    def told(self, error: BaseException) -> str:
        """An error without the places of files on this machine."""
        return re.sub(rf"{re.escape(str(self.folder))}/(?:[^/\s]+/)*", "", str(error))

    def _read(self, choice: ModelChoice) -> ModelDescription:
        try:
            return self._predicting.submit(describe, choice).result()
        except WorkerDiedError as death:
            raise UserError(f"The process that read the model {choice.folder} {death}.") from None

    def _end(self) -> None:
        self._ending.set()
        self._news.set()
        self._predicting.shutdown(wait=True, cancel_futures=True)

    def _clear(self) -> None:
        """Removes what no job refers to, and lets those wait again that ran when the last server died."""
        self.store.resume()
        jobs = {job.id: job for job in self.store.all()}
        for folder in (self.folder / "jobs").glob("*"):
            if folder.name not in jobs:
                shutil.rmtree(folder, ignore_errors=True)
            elif jobs[folder.name].has_ended:
                self._drop_input(jobs[folder.name])

    def _work(self) -> None:
        while not self._ending.is_set():
            try:
                self._work_once()
            except Exception:
                # The disk is full, for example: what could not be noted is done again when there is room.
                _logger.exception("Jobs cannot be taken up or ended; trying again in %d s:", _SECONDS_BEFORE_ANEW)
                self._ending.wait(_SECONDS_BEFORE_ANEW)
                with suppress(sqlite3.Error):
                    self.store.resume()

    def _work_once(self) -> None:
        self._news.clear()
        self.forget_old()
        job = self.store.take()
        if job is None:
            self._news.wait(_SECONDS_BETWEEN_LOOKS)
        else:
            self._predict(job)

    def _predict(self, job: Job) -> None:
        start, error = time.monotonic(), None
        try:
            if (choice := self.choices.get(job.model)) is None:
                raise UserError(f"The model {job.model} is not served any more.")
            loads = self._predicting.submit(predict, choice, job, self.folder).result()
            self.counters.loads[loads.process] = loads.models
        except UserError as mistake:
            error = self.told(mistake)
        except Exception as failure:
            if self._ending.is_set():
                return  # the next start begins it again
            if isinstance(failure, WorkerDiedError):
                self.counters.lost_workers += 1
                error = f"The process that predicted it {failure}."
            else:
                _logger.exception("Job %s failed:", job.id)
                error = f"{type(failure).__name__}: {self.told(failure)}"
        self.store.end(job.id, error)
        self.counters.seconds += time.monotonic() - start
        if error is None:
            self.counters.done += 1
            _logger.info("Job %s is done (%.1f s).", job.id, time.monotonic() - start)
        else:
            self.counters.failed += 1
            _logger.warning("Job %s failed: %s", job.id, error)
        self._drop_input(self.job(job.id))

    def _drop_input(self, job: Job) -> None:
        """What has ended needs its scan no more; what failed has nothing else."""
        folder = self.store.folder_of(job.id)
        shutil.rmtree(folder / "input" if job.state == "done" else folder, ignore_errors=True)
