"""Worker processes: results, defects, deaths, and that none is left."""

from __future__ import annotations

import errno
import multiprocessing.context
import os
import signal
import time
from collections import Counter

import pytest

from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.executors import ThisProcess, WorkerDiedError, WorkerProcesses, in_a_worker, worker_number


def square(number):
    return os.getpid(), number**2


def fail(number):
    raise ZeroDivisionError(number)


def die(how):
    if isinstance(how, int):
        os._exit(how)
    os.kill(os.getpid(), getattr(signal, how))
    time.sleep(60)


def number_and_process():
    return worker_number(), os.getpid()


def wait_for(file):
    while not file.exists():
        time.sleep(0.05)
    return worker_number()


def meet(folder, name, number):
    """Ends once so many calls are under way."""
    (folder / name).touch()
    while len(list(folder.iterdir())) < number:
        time.sleep(0.05)
    return os.getpid()


def threads_of_itk():
    import SimpleITK

    return SimpleITK.ProcessObject.GetGlobalDefaultNumberOfThreads()


def remain(folder):
    try:
        (folder / "started").touch()
        time.sleep(60)
    finally:
        (folder / "tidied").touch()


@pytest.mark.parametrize("executor", [lambda: ThisProcess(), lambda: WorkerProcesses(2)], ids=["this", "workers"])
def test_results_and_defects_come_back(executor):
    with executor() as pool:
        futures = [pool.submit(square, number) for number in range(9)]
        defect = pool.submit(fail, 3)
        assert [future.result()[1] for future in futures] == [number**2 for number in range(9)]
        with pytest.raises(ZeroDivisionError, match="3"):
            defect.result()


def test_a_defect_in_a_worker_says_where():
    with WorkerProcesses(1) as pool:
        error = pool.submit(fail, 3).exception()
        assert error is not None
        assert "in fail" in str(error.__cause__)


_POSIX = pytest.mark.skipif(os.name != "posix", reason="ends itself by a signal")


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (7, "ended with exit code 7"),
        pytest.param("SIGSEGV", "ended by SIGSEGV", marks=_POSIX),
        pytest.param("SIGKILL", r"SIGKILL \(.*memory", marks=_POSIX),
    ],
)
def test_a_call_that_kills_its_worker_fails_alone(how, said):
    with WorkerProcesses(1) as pool:
        before, deadly, after = pool.submit(square, 2), pool.submit(die, how), pool.submit(square, 3)
        with pytest.raises(WorkerDiedError, match=said):
            deadly.result()
        assert (before.result()[1], after.result()[1]) == (4, 9)
        assert before.result()[0] != after.result()[0]


def test_workers_have_one_thread_each_where_there_are_several():
    with WorkerProcesses(2) as pool:
        assert pool.submit(threads_of_itk).result() == 1


def test_processes_run_several_calls_each_and_the_least_busy_takes_the_next(tmp_path):
    with WorkerProcesses(2, calls_each=2) as pool:
        processes = [pool.submit(meet, tmp_path, name, 4) for name in "abcd"]
        assert sorted(Counter(future.result() for future in processes).values()) == [2, 2]


def test_all_calls_of_a_process_are_lost_with_it(tmp_path):
    with WorkerProcesses(1, calls_each=2) as pool:
        waiting, deadly = pool.submit(meet, tmp_path, "a", 9), pool.submit(die, 7)
        for lost in (waiting, deadly):
            with pytest.raises(WorkerDiedError, match="ended with exit code 7"):
                lost.result()
        assert pool.submit(square, 3).result()[1] == 9


def test_cancelling_ends_what_runs_in_order(tmp_path):
    pool = WorkerProcesses(1)
    running, waiting = pool.submit(remain, tmp_path), pool.submit(square, 1)
    while not (tmp_path / "started").exists():
        time.sleep(0.05)
    start = time.monotonic()
    pool.shutdown(cancel_futures=True)
    assert time.monotonic() - start < 10
    assert waiting.cancelled()
    with pytest.raises(WorkerDiedError):
        running.result()
    if os.name == "posix":
        assert (tmp_path / "tidied").exists()


def test_what_crashes_in_a_worker_is_told_by_name():
    assert in_a_worker(square, 3, "three")[1] == 9
    assert in_a_worker(square, 3, "three")[0] != os.getpid()
    with pytest.raises(UserError, match="worked on a scan ended with exit code 7"):
        in_a_worker(die, 7, "a scan")


def test_a_worker_that_cannot_be_started_fails_the_call(monkeypatch):
    def no_more_files(*_):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(multiprocessing.context.SpawnContext, "Pipe", no_more_files)
    with (
        WorkerProcesses(1) as workers,
        pytest.raises(WorkerDiedError, match=r"could not be started .Too many open files"),
    ):
        workers.submit(abs, -1).result()


def test_workers_are_numbered_and_who_follows_a_dead_one_has_its_number(tmp_path):
    with WorkerProcesses(2) as workers:
        dying, waiting = workers.submit(die, 7), workers.submit(wait_for, tmp_path / "go")
        assert dying.exception()
        numbers = {workers.submit(number_and_process).result() for _ in range(3)}
        (tmp_path / "go").touch()
        assert len(numbers) == 1
        ((next_number, _),) = numbers
        assert {waiting.result(), next_number} == {0, 1}
    assert worker_number() == 0
