from __future__ import annotations

import io
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

pytest.importorskip("starlette")

from fixtures.servers import choice

from nnunetv2_ext.serving import worker
from nnunetv2_ext.serving.errors import RefusedError
from nnunetv2_ext.serving.service import Limits, Service
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.executors import ThisProcess, WorkerProcesses


@pytest.fixture
def make_service(tmp_path, softmax_model):
    def make(limits=None, predicting=None, model=softmax_model, folder="server"):
        return Service(
            tmp_path / folder,
            [choice("organs", model)],
            limits,
            predicting=predicting or ThreadPoolExecutor(1),
            checking=ThisProcess(),
        )

    return make


@pytest.fixture
def scan(ct_file):
    return ct_file.read_bytes()


def accept(service, scan, **options):
    return service.accept([io.BytesIO(scan)], "organs", **options)


def ended(service, job):
    deadline = time.monotonic() + 60
    while not service.job(job.id).has_ended:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return service.job(job.id)


class _Crashing(WorkerProcesses):
    """Predicts in this process, but what is called first in another one, which a library crashes."""

    def __init__(self):
        super().__init__(1)
        self.calls = 0

    def submit(self, function, /, *arguments, **named):
        if function is worker.predict:
            self.calls += 1
            if self.calls == 1:
                return super().submit(os.abort)
        return ThisProcess().submit(function, *arguments, **named)


def test_a_crash_of_a_library_costs_one_job(make_service, scan):
    with make_service(predicting=_Crashing()) as service:
        first, second = (accept(service, scan) for _ in range(2))
        assert "SIGABRT" in ended(service, first).error
        assert ended(service, second).state == "done"
        assert (service.counters.lost_workers, service.counters.failed, service.counters.done) == (1, 1, 1)
        assert not service.store.folder_of(first.id).exists()
        with pytest.raises(RefusedError, match=r"failed: .*SIGABRT"):
            service.result(first_ended := service.job(first.id), worker.STATISTICS)
        assert first_ended.state == "failed"


class _Never(ThisProcess):
    """Reads models, and predicts nothing until the service ends."""

    def __init__(self, ended):
        self.begun, self.ended = ThreadPoolExecutor(1), ended

    def submit(self, function, /, *arguments, **named):
        if function is not worker.predict:
            return super().submit(function, *arguments, **named)
        return self.begun.submit(self._wait)

    def _wait(self):
        from nnunetv2_ext.utilities.executors import WorkerDiedError

        self.ended.wait(60)
        raise WorkerDiedError("was ended")

    def shutdown(self, wait=True, *, cancel_futures=False):
        self.ended.set()


def test_the_next_start_goes_on_with_what_the_last_one_accepted(make_service, scan):
    import threading

    with make_service(predicting=_Never(threading.Event())) as service:
        jobs = [accept(service, scan, output_types=["nrrd"]) for _ in range(3)]
        folder = service.folder
        while service.job(jobs[0].id).state != "running":
            time.sleep(0.01)
        # What a server leaves that is killed while a scan comes in, and a folder that belongs to no job.
        (folder / "jobs" / ".x.abcdefgh.tmp").mkdir()
        (folder / "jobs" / "0123").mkdir()
    with make_service() as service:
        assert {path.name for path in (folder / "jobs").iterdir()} == {job.id for job in jobs}
        done = [ended(service, job) for job in jobs]
        assert [(job.state, job.attempts) for job in done] == [("done", 2), ("done", 1), ("done", 1)]
        assert service.result(done[0], "label_map.nrrd").parent.name == "result_2"
        assert service.counters.done == 3
    with make_service() as service:
        assert service.store.counts()["done"] == 3
        assert service.store.take() is None


def test_one_server_at_a_time_uses_a_folder(make_service):
    with make_service(), ThreadPoolExecutor(1) as thread, pytest.raises(UserError, match="only run that writes"):
        thread.submit(make_service().__enter__).result()


def test_results_are_kept_for_a_while(make_service, scan):
    with make_service() as service:
        job = ended(service, accept(service, scan))
        kept = service.intake.keep([io.BytesIO(scan)])
        service.forget_old()
        assert service.result(job, worker.STATISTICS).is_file()
        assert service.intake.kept(kept)[0].read_bytes() == scan
        service.limits = replace(service.limits, keep_seconds=-60)
        service.forget_old()
        for gone in (lambda: service.job(job.id), lambda: service.intake.kept(kept)):
            with pytest.raises(RefusedError):
                gone()
        assert not list((service.folder / "jobs").glob("*"))


def test_what_cannot_wait_leaves_nothing(make_service, scan):
    import threading

    with make_service(Limits(waiting=1), predicting=_Never(threading.Event())) as service:
        first = accept(service, scan)
        while service.job(first.id).state != "running":
            time.sleep(0.01)
        second = accept(service, scan)
        with pytest.raises(RefusedError, match="at most 1 jobs to wait"):
            accept(service, scan)
        assert {folder.name for folder in (service.folder / "jobs").iterdir()} == {first.id, second.id}
        with pytest.raises(RefusedError, match="it runs"):
            service.remove(first)
        service.remove(second)
        with pytest.raises(RefusedError, match="running; ask again later"):
            service.result(service.job(first.id), worker.STATISTICS)


def test_a_scan_that_vanishes_and_a_model_that_is_gone_fail_alone(make_service, scan):
    import threading

    with make_service(predicting=_Never(threading.Event())) as service:
        jobs = [accept(service, scan) for _ in range(2)]
        while service.job(jobs[0].id).state != "running":
            time.sleep(0.01)
        shutil.rmtree(service.store.folder_of(jobs[0].id) / "input")
        service.store.change("UPDATE jobs SET model = 'other' WHERE id = ?", (jobs[1].id,))
    with make_service() as service:
        lost, strange = (ended(service, job) for job in jobs)
        assert "does not exist" in lost.error
        assert str(service.folder) not in lost.error
        assert strange.error == "The model other is not served any more."


def test_a_second_stage_is_not_served(make_service, make_model_folder, tmp_path):
    changes = {"previous_stage": "3d_lowres"}
    model = make_model_folder(tmp_path / "second", configuration="3d_cascade_fullres", changes=changes)
    with pytest.raises(UserError, match="second stage of a cascade"), make_service(model=model):
        pass
    # The folder is free again.
    with make_service():
        pass
