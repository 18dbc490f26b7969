from __future__ import annotations

import time

import pytest

pytest.importorskip("starlette")

from nnunetv2_ext.serving.errors import RefusedError
from nnunetv2_ext.serving.jobs import Job, JobStore, new_id
from nnunetv2_ext.utilities.errors import UserError


@pytest.fixture
def store(tmp_path):
    store = JobStore(tmp_path)
    yield store
    store.close()


def add(store, number=1, most=10):
    jobs = [Job(new_id(), "organs", ("nii.gz", "nrrd"), preview=True) for _ in range(number)]
    for job in jobs:
        store.add(job, most)
    return jobs


def test_jobs_are_taken_in_the_order_in_which_they_came_and_end_once(store):
    first, second = add(store, 2)
    assert store.before(second) == 1
    taken = store.take()
    assert (taken.id, taken.state, taken.attempts, taken.output_types) == (first.id, "running", 1, ("nii.gz", "nrrd"))
    store.advance(first.id, 0.5)
    assert store.find(first.id).progress == 0.5
    assert store.end(first.id)
    assert not store.end(first.id, "again")
    store.advance(first.id, 0.1)
    done = store.find(first.id)
    assert (done.state, done.error, done.progress) == ("done", None, 1.0)
    assert store.take().id == second.id
    assert store.take() is None
    assert store.end(second.id, "no good")
    assert store.find(second.id).error == "no good"
    assert store.counts() == {"waiting": 0, "running": 0, "done": 1, "failed": 1}


def test_what_ran_when_the_server_died_waits_at_its_place_but_not_for_ever(store):
    first, _ = add(store, 2)
    for attempt in range(1, 4):
        store.resume()
        assert (store.take().id, store.find(first.id).attempts) == (first.id, attempt)
    store.resume()
    assert "3 times" in store.find(first.id).error
    assert store.take().id != first.id


def test_no_more_wait_than_may(store):
    add(store, 2, most=2)
    with pytest.raises(RefusedError, match="at most 2 jobs") as refused:
        add(store, 1, most=2)
    assert refused.value.status == 503
    store.take()
    add(store, 1, most=2)


def test_a_running_job_is_not_removed(store):
    (job,) = add(store)
    store.take()
    assert not store.remove(job.id)
    store.end(job.id)
    assert store.ended_before(time.time() + 1)[0].id == job.id
    assert store.ended_before(time.time() - 60) == []
    assert store.remove(job.id)
    assert store.find(job.id) is None


def test_another_process_sees_what_is_noted(store, tmp_path):
    (job,) = add(store)
    store.take()
    other = JobStore(tmp_path)
    other.advance(job.id, 0.25)
    other.close()
    assert store.find(job.id).progress == 0.25


def test_another_file_is_no_table_of_jobs(tmp_path):
    (tmp_path / "jobs.sqlite").write_bytes(b"something else" * 100)
    with pytest.raises(UserError, match="Expected jobs of a server"):
        JobStore(tmp_path)
