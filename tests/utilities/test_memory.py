from __future__ import annotations

import os
import sys

import pytest

from nnunetv2_ext.utilities import memory

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the system says so in /proc")


def test_there_is_memory():
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    free = memory.free_memory()
    assert free is not None
    assert 1e6 < free <= machine


def test_a_container_has_what_its_limit_leaves(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "_GROUP", tmp_path)
    whole = memory.free_memory()
    (tmp_path / "memory.max").write_text("5000\n")
    (tmp_path / "memory.current").write_text("3000\n")
    (tmp_path / "memory.stat").write_text("anon 2000\ninactive_file 1000\n")
    assert memory.free_memory() == 3000
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.free_memory() == pytest.approx(whole, rel=0.5)


def test_shared_memory_is_that_of_its_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "_SHARED", tmp_path)
    status = os.statvfs(tmp_path)
    assert memory.free_shared_memory() == pytest.approx(status.f_bavail * status.f_frsize, rel=0.1)
    monkeypatch.setattr(memory, "_SHARED", tmp_path / "none")
    assert memory.free_shared_memory() is None


def test_amounts_in_words():
    assert memory.gigabytes(1_250_000_000) == "1.2 GB"
    assert memory.gigabytes(None) == "an unknown amount"
