"""Runs tries, two at a time, and collects what became of them."""

from __future__ import annotations

import itertools
import shlex
import signal
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attacks.client import Process, Server
from attacks.judge import judge, judge_files
from attacks.sandbox import Sandbox, snapshot
from attacks.table import ACCEPTED, Try

PARALLEL = 2
#: What commands that go on for long print once they have taken their input.
TAKEN = {"train": "Epoch 0", "finetune": "Epoch 0", "serve": "Listening at"}


@dataclass(frozen=True)
class Result:
    """What became of a try.

    Attributes:
        attempt: The try.
        problems: What was wrong; nothing if it held.
        seconds: How long it took.
        words: The command of the first example that did not hold.
        output: The end of what that command printed.
    """

    attempt: Try
    problems: tuple[str, ...]
    seconds: float
    words: str = ""
    output: str = ""

    @property
    def held(self) -> bool:
        """Whether nothing was wrong."""
        return not self.problems


class Runner:
    """Runs tries in sandboxes.

    Args:
        server: Forks the commands.
        scratch: Folder for the sandboxes.
        library: The good files.
        keep: Whether the sandboxes of failed tries are kept.
        deadline: `time.monotonic` after which nothing new is tried.
    """

    def __init__(self, server: Server, scratch: Path, library: Path, keep: bool, deadline: float) -> None:
        self.server = server
        self.tries = scratch / "tries"
        self.tries.mkdir()
        self.library = library
        self.keep = keep
        self.deadline = deadline
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        #: Title of a try -> seconds that the CPUs worked for its examples.
        self.work: dict[str, float] = {}

    def run_all(self, tries: Sequence[Try]) -> Iterator[Result]:
        """Runs all of them; yields results as they come."""
        with ThreadPoolExecutor(PARALLEL) as pool:
            futures = [pool.submit(self.run, attempt) for attempt in tries]
            try:
                for future in as_completed(futures):
                    yield future.result()
            finally:
                pool.shutdown(cancel_futures=True)

    def run(self, attempt: Try) -> Result:
        """Runs one try, all its examples."""
        began = time.monotonic()
        for set_up in attempt.examples:
            if time.monotonic() > self.deadline:
                return Result(attempt, ("there was no time left to try it",), 0.0)
            box = self.sandbox()
            argv: Sequence[str] = ()
            problems: list[str] = []
            try:
                try:
                    argv = list(set_up(box))
                    problems = self._run_example(attempt, box, argv)
                except Exception:
                    # A defect of the try itself: it counts as failed and stops no other.
                    problems = [f"the try itself failed: {traceback.format_exc(limit=-3)}"]
                if problems:
                    words = shlex.join([f"nnUNetv2_ext_{attempt.command}", *argv])
                    output = box.log.read_text(errors="replace")[-3000:] if box.log.exists() else ""
                    return Result(attempt, tuple(dict.fromkeys(problems)), time.monotonic() - began, words, output)
            finally:
                if not (problems and self.keep):
                    box.remove()
        return Result(attempt, (), time.monotonic() - began)

    def sandbox(self) -> Sandbox:
        """A fresh one."""
        return Sandbox(self.tries / f"{next(self._numbers):05d}", self.library)

    def start(self, box: Sandbox, attempt: Try, argv: Sequence[str], **options: Any) -> Process:
        """Starts the command of a try in a sandbox."""
        further = {**attempt.options, **options}
        environment = {**box.environment, **further.pop("environment", {})}
        command = further.pop("command", attempt.command)
        settings = {"seconds": 10 * attempt.seconds, "log": box.log, "environment": environment, "folder": box.root}
        return self.server.start(command, argv, **{**settings, **further})

    def _run_example(self, attempt: Try, box: Sandbox, argv: Sequence[str]) -> list[str]:
        before = snapshot(box.root)
        if attempt.driver is not None:
            stage = Stage(self, attempt, box, argv)
            try:
                problems = list(attempt.driver(stage, box))
            finally:
                stage.end_all()
            return problems + judge_files(box, before, attempt.expect.targets)
        process = self.start(box, attempt, argv)
        # A training of good files goes on to its end; a server has none.
        to_the_end = attempt.expect.codes == ACCEPTED and attempt.command != "serve"
        enough = "" if to_the_end else TAKEN.get(attempt.command, "")
        process.wait_or_end(attempt.seconds, enough)
        with self._lock:
            self.work[attempt.title] = self.work.get(attempt.title, 0.0) + process.cpu_seconds
        return judge(box, process, before, attempt.expect)


@dataclass
class Stage:
    """What a driver works with: the arguments, and how commands are started with them.

    Attributes:
        runner: Starts commands.
        attempt: The try.
        box: Its sandbox.
        argv: What its set-up returned.
        started: All that was started.
    """

    runner: Runner
    attempt: Try
    box: Sandbox
    argv: Sequence[str]
    started: list[Process] = field(default_factory=list)

    def start(self, argv: Sequence[str] | None = None, log: str = "", **options: Any) -> Process:
        """Starts the command (or another), with its own log where several run at once."""
        if log:
            options["log"] = self.box.root.with_name(f"{self.box.root.name}{log}.log")
        process = self.runner.start(self.box, self.attempt, self.argv if argv is None else argv, **options)
        self.started.append(process)
        return process

    def end_all(self) -> None:
        """Ends what a driver that gave up has left running, so that no other try has to share the machine with it."""
        for process in self.started:
            if process.code is None:
                process.send(signal.SIGKILL, group=True)
                process.wait(10)
                process.leftovers(1)
