from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from nnunetv2_ext.cluster import several_gpus
from nnunetv2_ext.cluster.several_gpus import train_on_gpus
from nnunetv2_ext.utilities.errors import UserError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="processes cannot be sent these signals there")


def _sleep_as_rank(rank, gpus, port, train, run, _):
    Path(run, str(rank)).touch()
    time.sleep(60)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_ranks_end_with_their_command(tmp_path, monkeypatch, number, expected):
    def end(*_):
        if {file.name for file in tmp_path.iterdir()} == {"0", "1"}:
            os.kill(os.getpid(), number)
        else:
            signal.alarm(1)

    monkeypatch.setattr(several_gpus, "_run_rank", _sleep_as_rank)
    others = set(multiprocessing.active_children())
    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(1)
    try:
        with pytest.raises(expected) as ended:
            train_on_gpus(2, print, str(tmp_path))
        deadline = time.monotonic() + 20
        while (left := set(multiprocessing.active_children()) - others) and time.monotonic() < deadline:
            time.sleep(0.1)
        for process in left:
            process.kill()
        assert not left
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    if expected is SystemExit:
        assert ended.value.code == 75


@pytest.fixture
def ended_with(monkeypatch):
    """Lets the processes end so."""

    def end(exit_code):
        def join():
            raise torch.multiprocessing.ProcessExitedException("...", 1, 77, exit_code)

        monkeypatch.setattr(torch.multiprocessing, "spawn", lambda *_, **__: SimpleNamespace(join=join, processes=[]))

    return end


def test_a_rank_that_was_killed_is_named(ended_with):
    ended_with(-9)
    with pytest.raises(UserError, match=r"process of GPU 1 was ended by SIGKILL .most likely memory ran out.* GB of"):
        train_on_gpus(2, print, None)


def test_ranks_that_stopped_in_order_go_on_later(ended_with):
    ended_with(75)
    with pytest.raises(SystemExit) as end:
        train_on_gpus(2, print, None)
    assert end.value.code == 75


def _raise_user_error(run):
    raise UserError(f"{run}: rank {os.environ['RANK']} of {os.environ['WORLD_SIZE']}.")


def test_user_errors_of_the_processes_arrive_as_sentences(monkeypatch):
    """The processes are this one; that of a rank raises as torch's does."""

    def spawn(function, args, nprocs, join):
        with pytest.raises(UserError) as raised:
            function(0, *args)

        def fail():
            raise torch.multiprocessing.ProcessRaisedException(f"Traceback ... {raised.value}", 0, 1)

        return SimpleNamespace(join=fail, processes=[])

    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(torch.multiprocessing, "spawn", spawn)
    with pytest.raises(UserError, match=r"^Expected this: rank 0 of 2\.$"):
        train_on_gpus(2, _raise_user_error, "Expected this")
