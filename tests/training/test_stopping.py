from __future__ import annotations

import os
import signal
import sys
import threading

import pytest

from nnunetv2_ext.training.stopping import GO_ON_LATER, STOP_SIGNALS, go_on_later, stop_signals_call

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="processes cannot be sent these signals there")


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_signals_reach_the_function_and_then_what_was_there_before(number):
    found, before = [], []
    usual = signal.signal(number, lambda *_: before.append(number))
    try:
        with stop_signals_call(found.append):
            os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)
    finally:
        signal.signal(number, usual)
    assert found == before == [number]


def test_a_fork_ends_as_it_would_otherwise():
    ready, says_ready = os.pipe()
    with stop_signals_call(lambda _: os._exit(3)):
        child = os.fork()
        if child == 0:
            # Python drops signals that come while it forks.
            os.write(says_ready, b"1")
            signal.pause()
            os._exit(4)
        os.read(ready, 1)
        os.kill(child, signal.SIGTERM)
        _, status = os.waitpid(child, 0)
    os.close(ready)
    os.close(says_ready)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGTERM


def test_other_threads_handle_no_signals():
    failures = []

    def enter():
        try:
            with stop_signals_call(print):
                pass
        except ValueError as error:
            failures.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert not failures


def test_work_that_begins_again_ends_with_the_code_that_says_so():
    with pytest.raises(SystemExit) as end, stop_signals_call(go_on_later):
        os.kill(os.getpid(), signal.SIGUSR1)
    assert end.value.code == GO_ON_LATER == 75
