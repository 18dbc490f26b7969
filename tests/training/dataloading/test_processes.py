from __future__ import annotations

import pytest

from nnunetv2_ext.training.dataloading import processes
from nnunetv2_ext.training.dataloading.processes import cached_batches, processes_that_fit, validating_processes


@pytest.fixture
def memory(monkeypatch):
    free = {"memory": 10**15, "shared": 10**15}
    monkeypatch.setattr(processes, "free_memory", lambda: free["memory"])
    monkeypatch.setattr(processes, "free_shared_memory", lambda: free["shared"])
    return free


def test_all_of_them_where_there_is_plenty(memory):
    assert processes_that_fit(12, 10**8, 10**8) == 12
    memory.update(memory=None, shared=None)
    assert processes_that_fit(12, 10**8, 10**8) == 12


def test_fewer_where_memory_is_short(memory):
    memory["memory"] = 8 * 10**9
    fewer = processes_that_fit(12, 10**7, 10**8)
    assert 1 <= fewer < 12
    assert processes_that_fit(12, 10**7, 10**8, sharing=2) < fewer


def test_shared_memory_of_a_container_holds_small_batches_only(memory):
    memory["shared"] = 64 * 2**20
    assert processes_that_fit(12, 10**5, 10**5) == 12
    assert 1 <= processes_that_fit(12, 2 * 10**6, 10**6) < 12
    assert processes_that_fit(12, 10**8, 10**8) == 0


@pytest.mark.parametrize(("training", "validation"), [(0, 0), (1, 1), (2, 1), (12, 6)])
def test_validation_has_nnunets_share(training, validation):
    assert validating_processes(training) == validation


def test_as_many_batches_wait_as_in_nnunet():
    assert cached_batches(2) == (6, 3)
    assert cached_batches(28) == (14, 7)
