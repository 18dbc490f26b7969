"""Tests reach this machine alone, in their process and in those that they start."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest
from pytest_socket import SocketConnectBlockedError

# An address that belongs to nobody (RFC 5737).
_NOBODY = "192.0.2.1"


@pytest.mark.filterwarnings("ignore:A test tried")
def test_other_machines_are_out_of_reach():
    with pytest.raises(SocketConnectBlockedError, match=_NOBODY):
        socket.create_connection((_NOBODY, 80), timeout=0.1)


def test_this_machine_is_within_reach():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        assert client.getpeername() == server.getsockname()


def test_child_processes_find_no_way_out():
    code = f"from urllib.request import urlopen; urlopen('http://{_NOBODY}', timeout=5)"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", timeout=60)
    assert child.returncode == 1
    assert "Connection refused" in child.stderr
