"""Ranks that are threads of this process: the store knows no difference."""

from __future__ import annotations

import os
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest
from fixtures.training_ranks import free_port

from nnunetv2_ext.cluster import meeting as module
from nnunetv2_ext.cluster.meeting import Meeting
from nnunetv2_ext.cluster.ranks import Ranks
from nnunetv2_ext.utilities.errors import UserError


@pytest.fixture
def as_ranks(monkeypatch):
    """Runs a function with the meeting of each rank; returns what it returned or raised."""
    monkeypatch.setattr(module, "_SECONDS_OF_ROLL_CALL", 1)

    def run(function, size=2, minutes=0.2):
        port = free_port()

        def rank(number):
            try:
                with Meeting(Ranks(number, size, number, 0, "127.0.0.1", port), minutes) as meeting:
                    return function(meeting)
            except UserError as error:
                return error

        with ThreadPoolExecutor(size) as threads:
            return list(threads.map(rank, range(size)))

    return run


def test_ranks_hear_each_other_round_by_round(as_ranks):
    def talk(meeting):
        rank = meeting.ranks.rank
        return [meeting.exchange(rank), meeting.exchange({"of": rank}), meeting.together(lambda: str(rank))]

    expected = [[0, 1, 2], [{"of": 0}, {"of": 1}, {"of": 2}], ["0", "1", "2"]]
    assert as_ranks(talk, 3) == [expected] * 3


def test_a_rank_that_does_not_come_is_named(as_ranks):
    def talk(meeting):
        return meeting.ranks.rank or meeting.exchange(None)

    raised, _ = as_ranks(talk, minutes=0.02)
    assert "Expected 2 ranks within 0.02 minutes, but rank 1 did not come" in str(raised)


def test_what_fails_in_one_rank_ends_all_with_its_sentence(as_ranks):
    def work(meeting):
        def fail():
            if meeting.ranks.rank == 1:
                raise UserError("Expected a GPU.")

        meeting.together(fail)

    errors = as_ranks(work)
    assert [str(error) for error in errors] == [f"On rank 1 on {socket.gethostname()}: Expected a GPU."] * 2


def test_what_fails_in_all_ranks_is_said_as_by_one(as_ranks):
    def work(meeting):
        def fail():
            raise UserError("Expected a dataset.")

        meeting.together(fail)

    assert [str(error) for error in as_ranks(work)] == ["Expected a dataset."] * 2


def test_the_roll_is_called(as_ranks):
    def work(meeting):
        if meeting.ranks.rank == 1:
            meeting.say_end(75, "75")
        elif meeting.ranks.rank != 2:
            return meeting.roll_call()
        return None

    found = as_ranks(work, 4)
    assert found[0] == found[3] == ([2], {1: (75, "75")})


def test_a_rank_0_that_ends_before_all_agree_is_named(as_ranks, monkeypatch):
    monkeypatch.setattr(Meeting, "__exit__", lambda *_: None)

    def talk(meeting):
        if meeting.ranks.rank == 0:
            meeting._store = None  # where it is held
            return None
        return meeting.exchange(None)

    assert "Expected rank 0 to stay until all ranks agree, but it has ended" in str(as_ranks(talk)[1])


def test_an_address_that_nobody_knows_is_refused():
    with pytest.raises(UserError, match=r"address of rank 0 in MASTER_ADDR, but no\.such\.host\.invalid is none"):
        Meeting(Ranks(1, 2, 1, 0, "no.such.host.invalid", 5000), 0.1)


def test_a_taken_port_is_named():
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=rf"the port {port} of 127.0.0.1 to be free .* set MASTER_PORT to another"):
            Meeting(Ranks(0, 2, 0, 0, "127.0.0.1", port), 0.1)


def test_a_rank_0_that_is_not_there_is_named():
    port = free_port()
    with pytest.raises(UserError, match=rf"Expected rank 0 at 127.0.0.1, port {port}, within 0.02 minutes"):
        Meeting(Ranks(1, 2, 1, 0, "127.0.0.1", port), 0.02)


@pytest.mark.skipif(os.name != "posix", reason="the program is a shell script")
@pytest.mark.parametrize(
    ("script", "expected"), [("echo gpu01; echo gpu02", "gpu01"), ("echo no such thing >&2; exit 1", None)]
)
def test_slurm_tells_the_first_host(tmp_path, monkeypatch, script, expected):
    program = tmp_path / "scontrol"
    program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    if expected is None:
        with pytest.raises(
            UserError, match=r"scontrol to tell the hosts of gpu\[01-02\], but it does not \(no such thing\)"
        ):
            module._first_host("gpu[01-02]")
    else:
        assert module._first_host("gpu[01-02]") == expected


def test_without_slurms_program_the_address_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"Expected scontrol.*No such file.*set MASTER_ADDR to the host of rank 0"):
        module._first_host("gpu[01-02]")
