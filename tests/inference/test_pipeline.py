"""Three stages over many cases: overlap, bounds, failures, interruption."""

from __future__ import annotations

import gc
import threading
import time
import weakref

import numpy as np
import pytest

from nnunetv2_ext.inference.pipeline import run_pipeline
from nnunetv2_ext.utilities.errors import UserError

WORKERS = [(0, 0), (1, 1), (3, 2)]


@pytest.mark.parametrize(("before", "after"), WORKERS)
def test_every_case_passes_all_stages_in_order(before, after):
    finished = {}
    outcome = run_pipeline(
        range(20),
        lambda case: case * 10,
        lambda case, prepared: prepared + 1,
        lambda case, computed: finished.__setitem__(case, computed),
        preparing_workers=before,
        finishing_workers=after,
    )
    assert finished == {case: case * 10 + 1 for case in range(20)}
    assert sorted(outcome.done) == list(range(20))
    assert outcome.failures == []


@pytest.mark.parametrize(("before", "after"), WORKERS)
def test_a_bad_case_in_any_stage_is_named_and_does_not_stop_the_others(before, after):
    def fail(when, case):
        if case == when:
            raise UserError("Expected a better image.") if case == 2 else MemoryError("too large")

    ticks = []
    outcome = run_pipeline(
        range(8),
        lambda case: fail(2, case),
        lambda case, _: fail(4, case),
        lambda case, _: fail(6, case),
        preparing_workers=before,
        finishing_workers=after,
        progress=lambda: ticks.append(1),
    )
    assert sorted(outcome.done) == [0, 1, 3, 5, 7]
    assert sorted((failure.case, failure.stage, failure.reason) for failure in outcome.failures) == [
        (2, "preparing", "Expected a better image."),
        (4, "computing", "MemoryError: too large"),
        (6, "finishing", "MemoryError: too large"),
    ]
    assert len(ticks) == 8


def test_stages_of_different_cases_overlap():
    # With a barrier of three, no stage can end before all three stages run at the same time.
    barrier = threading.Barrier(3, timeout=10)

    def meet(stage):
        def step(case, *_):
            if stage + case == 2:
                barrier.wait()

        return step

    outcome = run_pipeline(range(3), meet(0), meet(1), meet(2), preparing_workers=1, finishing_workers=1)
    assert sorted(outcome.done) == [0, 1, 2]


@pytest.mark.parametrize(("before", "after"), WORKERS)
def test_no_stage_runs_far_ahead(before, after):
    begun, ended, most = set(), set(), []
    lock = threading.Lock()

    def prepare(case):
        with lock:
            begun.add(case)
            most.append(len(begun - ended))

    def finish(case, _):
        time.sleep(0.005)
        with lock:
            ended.add(case)

    run_pipeline(range(30), prepare, lambda *_: None, finish, preparing_workers=before, finishing_workers=after)
    # Waiting or being prepared, being computed, waiting or being finished.
    assert max(most) <= (before + 1) + 1 + (after + 1)


def test_an_interrupt_ends_the_run_after_the_steps_under_way_and_begins_no_other_case():
    prepared, finished = [], []

    def compute(case, _):
        if case == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_pipeline(range(100), prepared.append, compute, lambda case, _: finished.append(case), preparing_workers=2)
    assert set(finished) <= {0, 1, 2}
    assert len(prepared) <= 7
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("preparing", "finishing"))]


@pytest.mark.parametrize(("before", "after"), WORKERS)
@pytest.mark.parametrize("stage", range(3))
def test_nothing_of_a_failed_case_stays_in_memory(before, after, stage):
    arrays = []

    def fail(when):
        def step(*_):
            image = np.zeros(10)
            if when == stage:
                arrays.append(weakref.ref(image))
                raise ValueError(f"no image: {image.shape}")

        return step

    outcome = run_pipeline(range(3), *map(fail, range(3)), preparing_workers=before, finishing_workers=after)
    gc.collect()
    assert len(outcome.failures) == len(arrays) == 3
    assert not [array for array in arrays if array() is not None]
