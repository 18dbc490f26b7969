from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunetv2_ext.training.lr_scheduler.warmup import WarmUpSchedule


def test_published_schedule():
    schedule = WarmUpSchedule()
    assert schedule.num_epochs == 1060
    assert [schedule.phase(epoch) for epoch in (0, 9, 10, 59, 60, 1059)] == [
        "heads", "heads", "network", "network", "standard", "standard",
    ]  # fmt: skip
    assert schedule.learning_rate(0) == pytest.approx(5e-5)
    assert schedule.learning_rate(9) == pytest.approx(5e-4)
    assert schedule.learning_rate(59) == pytest.approx(1e-2)
    assert schedule.learning_rate(60) == pytest.approx(1e-2)
    assert schedule.learning_rate(560) == pytest.approx(1e-2 * 0.5**0.9)


@given(heads=st.integers(0, 5), network=st.integers(0, 5), standard=st.integers(1, 5))
def test_every_epoch_has_a_positive_rate_and_rises_only_in_warm_up(heads, network, standard):
    schedule = WarmUpSchedule(heads_epochs=heads, network_epochs=network, standard_epochs=standard)
    rates = [schedule.learning_rate(epoch) for epoch in range(schedule.num_epochs)]
    assert all(rate > 0 for rate in rates)
    assert rates[:heads] == sorted(rates[:heads])
    assert rates[heads : heads + network] == sorted(rates[heads : heads + network])
    assert rates[heads + network :] == sorted(rates[heads + network :], reverse=True)


def test_no_epochs_are_refused():
    with pytest.raises(ValueError, match="at least one epoch"):
        WarmUpSchedule(heads_epochs=0, network_epochs=0, standard_epochs=0)
