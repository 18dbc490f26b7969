"""Order, errors, memory and dead workers of `parallel_map`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.parallel import default_processes, parallel_map


def square(number):
    if number == 3:
        raise UserError("three is bad")
    time.sleep(0.02 * (number % 2))
    return number**2


def die(number):
    if number == 1:
        os._exit(1)
    return number


def run_out_of_memory(number):
    if number == 1:
        raise MemoryError
    return number


def fail(number):
    raise ZeroDivisionError


@pytest.mark.parametrize("processes", [0, 2])
def test_order_is_kept_and_a_bad_item_stops_nobody_else(processes):
    outcomes = list(parallel_map(square, range(20), processes=processes, progress=False))
    assert [outcome.item for outcome in outcomes] == list(range(20))
    assert [outcome.result for outcome in outcomes] == [None if n == 3 else n**2 for n in range(20)]
    assert [outcome.error for outcome in outcomes if outcome.error] == ["three is bad"]


def test_defects_propagate():
    with pytest.raises(ZeroDivisionError):
        list(parallel_map(fail, [1, 2], progress=False))


@pytest.mark.parametrize(
    ("function", "said"), [(die, "worked on 1 ended with exit code 1"), (run_out_of_memory, "Memory ran out at 1")]
)
def test_an_item_that_costs_its_process_or_memory_stops_nobody_else(function, said):
    outcomes = list(parallel_map(function, range(4), processes=2, progress=False))
    assert [outcome.result for outcome in outcomes] == [0, None, 2, 3]
    assert outcomes[1].error is not None
    assert said in outcomes[1].error


def test_another_executor_can_be_used():
    made = []

    def make(processes):
        made.append(ThreadPoolExecutor(processes))
        return made[0]

    outcomes = parallel_map(square, range(9), processes=4, progress=False, make_executor=make)
    assert [outcome.result for outcome in outcomes] == [None if n == 3 else n**2 for n in range(9)]
    with pytest.raises(RuntimeError, match="after shutdown"):
        made[0].submit(square, 1)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="interrupts a process group as a terminal does")
def test_an_interrupt_tidies_up_and_prints_no_tracebacks_of_workers(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        """
import sys
import time
from pathlib import Path
from nnunetv2_ext.utilities.parallel import parallel_map

def work(folder):
    if folder.endswith("idle"):
        return
    try:
        Path(folder, "started").touch()
        time.sleep(60)
    finally:
        Path(folder, "tidied").touch()

if __name__ == "__main__":
    try:
        list(parallel_map(work, [sys.argv[1], "idle"], processes=2, progress=False))
    except KeyboardInterrupt:
        sys.exit(130)
"""
    )
    process = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)], stderr=subprocess.PIPE, encoding="utf-8", start_new_session=True
    )
    while not (tmp_path / "started").exists():
        assert process.poll() is None
        time.sleep(0.1)
    time.sleep(3)  # for the other worker to become idle
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 130
    assert error == ""
    assert (tmp_path / "tidied").exists()


def test_items_are_taken_as_they_are_needed():
    seen = []

    def remember(item):
        seen.append(item)
        return item

    outcomes = parallel_map(remember, range(100), progress=False)
    next(outcomes)
    assert len(seen) <= 2
    assert list(parallel_map(square, [], progress=False)) == []


def test_progress_bar_can_be_silenced(capsys):
    list(parallel_map(square, [1, 2], progress=False))
    assert capsys.readouterr().err == ""
    list(parallel_map(square, [1, 2], description="Squaring", progress=True))
    assert "Squaring" in capsys.readouterr().err


def test_default_follows_nnunet(monkeypatch):
    monkeypatch.setenv("nnUNet_def_n_proc", "1")
    assert default_processes() == 1
