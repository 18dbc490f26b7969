"""Time and memory of the stages."""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path

import numpy as np

from nnunetv2_ext.inference.reporting.report import StageClock, resident_memory_mb, versions, write_report


def test_seconds_add_up_per_case_and_stage_also_from_threads():
    clock = StageClock()

    def work(case):
        for _ in range(2):
            with clock.stage("sleeping", case):
                time.sleep(0.02)

    threads = [threading.Thread(target=work, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert clock.seconds("a")["sleeping"] >= 0.04
    assert clock.seconds("c") == {}
    assert clock.totals()["sleeping"]["seconds"] >= 0.08


def test_memory_that_comes_and_goes_within_a_stage_is_seen():
    with StageClock() as clock:
        with clock.stage("small", "a"):
            before = resident_memory_mb()
            time.sleep(0.12)
        with clock.stage("large", "a"):
            block = np.ones((200, 2**17))  # 200 MB
            time.sleep(0.15)
            del block
    assert clock.totals()["large"]["peak_memory_mb"] >= before + 150
    assert clock.totals()["small"]["peak_memory_mb"] < before + 100


def test_a_stage_that_fails_is_counted_and_ends():
    clock = StageClock()
    for _ in range(2):
        try:
            with clock.stage("failing", "a"):
                raise ValueError
        except ValueError:
            continue
    assert "failing" in clock.seconds("a")


def test_the_report_says_which_versions_ran(tmp_path):
    write_report(tmp_path / "report.json", {"device": "cpu"}, StageClock())
    content = json.loads((tmp_path / "report.json").read_text())
    assert content["device"] == "cpu"
    assert content["versions"] == versions()
    assert {"python", "nnunetv2", "nnunetv2-ext", "torch"} <= set(versions())


def test_a_system_that_does_not_tell_its_memory_fails_no_stage(monkeypatch):
    """Windows has neither /proc nor the module resource."""
    exists = Path.exists
    monkeypatch.setattr(Path, "exists", lambda path: path.parts[1:2] != ("proc",) and exists(path))
    monkeypatch.setitem(sys.modules, "resource", None)
    failed = []
    with StageClock() as clock:
        try:
            with clock.stage("reading", "a"):
                pass
        except ImportError as error:
            failed.append(error)
    assert failed == []
    assert clock.totals()["reading"]["peak_memory_mb"] == 0
