"""One run at a time writes an output, and the traces of dead runs stand in nobody's way."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading

import pytest

from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.folders import folder_under_construction
from nnunetv2_ext.utilities.locks import output_lock

_HOLD = """
import sys, time
from pathlib import Path
from nnunetv2_ext.utilities.locks import output_lock
with output_lock(Path(sys.argv[1]), inside=sys.argv[2] == "True", part=(int(sys.argv[3]), int(sys.argv[4]))):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def hold():
    """Starts processes that hold a lock until they are killed."""
    processes = []

    def start(target, inside=True, part=(0, 1)):
        command = [sys.executable, "-c", _HOLD, str(target), str(inside), *map(str, part)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8")
        processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("inside", [True, False])
def test_another_process_is_refused_until_the_first_one_is_dead(tmp_path, hold, inside):
    target = tmp_path / "out"
    holder = hold(target, inside)
    with pytest.raises(UserError, match=rf"only run that writes .*out, but process {holder.pid} on .*, since 2"):
        output_lock(target, inside=inside).__enter__()
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with output_lock(target, inside=inside):
        pass
    assert not list(tmp_path.rglob("*lock*"))


def test_other_threads_are_refused_and_the_same_one_is_not(tmp_path):
    caught = []

    def try_it():
        try:
            output_lock(tmp_path, inside=True).__enter__()
        except UserError as error:
            caught.append(error)

    with output_lock(tmp_path, inside=True), output_lock(tmp_path, inside=True):
        thread = threading.Thread(target=try_it)
        thread.start()
        thread.join()
    assert len(caught) == 1
    assert list(tmp_path.iterdir()) == []


def test_parts_of_one_number_go_together(tmp_path, hold):
    hold(tmp_path, part=(0, 3))
    calls = []
    with output_lock(tmp_path, inside=True, part=(2, 3), agree=calls.append):
        pass
    assert calls == [False]
    for part in ((0, 3), (1, 4), (0, 1)):
        with pytest.raises(UserError, match="only run that writes"):
            output_lock(tmp_path, inside=True, part=part).__enter__()


def test_who_does_not_agree_leaves_no_trace(tmp_path):
    def refuse(alone):
        assert alone
        raise UserError("another model")

    with pytest.raises(UserError, match="another model"):
        output_lock(tmp_path, inside=True, agree=refuse).__enter__()
    assert list(tmp_path.iterdir()) == []


def test_one_that_waits_comes_next(tmp_path, hold):
    holder = hold(tmp_path)
    threading.Timer(0.5, holder.kill).start()
    with output_lock(tmp_path, inside=True, wait=True):
        assert holder.wait() == -signal.SIGKILL


@pytest.mark.skipif(os.name != "posix", reason="flock is of POSIX")
def test_file_systems_without_locks_have_files_in_their_place(tmp_path, monkeypatch):
    import fcntl

    def refuse(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    caught = []

    def try_it():
        try:
            output_lock(tmp_path, inside=True).__enter__()
        except UserError as error:
            caught.append(error)

    for _ in range(2):
        with output_lock(tmp_path, inside=True):
            thread = threading.Thread(target=try_it)
            thread.start()
            thread.join()
    assert len(caught) == 2
    assert list(tmp_path.iterdir()) == []


def test_what_dead_runs_left_is_cleared_and_what_living_ones_write_is_not(tmp_path, hold):
    folder = tmp_path / "predictions"
    names = [".case.nii.gz.ab_12xyz.tmp.nii.gz", "previews/.a.png.abcdefgh.tmp.png"]
    kept = [folder / "case.nii.gz", folder / ".hidden", folder / ".tmp"]
    for file in (*kept, *(folder / name for name in names)):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    holder = hold(folder, part=(0, 2))
    for name in names:
        (folder / name).touch()
    with output_lock(folder, inside=True, part=(1, 2)):
        assert all((folder / name).exists() for name in names)
    holder.kill()
    holder.wait()
    with output_lock(folder, inside=True, part=(1, 2)):
        assert not any((folder / name).exists() for name in names)
    assert all(file.exists() for file in kept)


def test_a_folder_whose_swap_was_cut_short_comes_back(tmp_path):
    old, new = tmp_path / ".model.ab_12xyz.old", tmp_path / ".model.ab_12xyz.tmp"
    old.mkdir()
    new.mkdir()
    (old / "weights").touch()
    with output_lock(tmp_path / "model"):
        assert (tmp_path / "model" / "weights").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_lock_that_was_taken_away_stops_the_rename(tmp_path):
    def build():
        with folder_under_construction(tmp_path / "model"):
            (tmp_path / ".model.lock" / "0of1.json").write_text("another")

    with pytest.raises(UserError, match="taken away"):
        build()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_came_meanwhile_is_not_replaced(tmp_path):
    def build():
        with folder_under_construction(tmp_path / "model", overwrite=False):
            (tmp_path / "model").mkdir()
            (tmp_path / "model" / "mine").touch()

    with pytest.raises(UserError, match="exists already"):
        build()
    assert (tmp_path / "model" / "mine").exists()
