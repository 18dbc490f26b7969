"""What the ranks of a training tell each other beside torch's process group: facts before it, and who is lost after.

It goes through the store at which torch's ranks meet, so it works before a group exists and when one is broken.
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

from torch.distributed import DistNetworkError, DistStoreError, PrefixStore, Store, TCPStore

from nnunetv2_ext.cluster.ranks import Ranks
from nnunetv2_ext.utilities.errors import UserError

T = TypeVar("T")

#: Until a rank has answered that lives: connections break at slightly different times.
_SECONDS_OF_ROLL_CALL = 5


class Meeting:
    """The ranks of one start of a training.

    Args:
        ranks: This process among them.
        minutes: How long to wait for the others.

    Raises:
        UserError: The others cannot be met, and why.
    """

    def __init__(self, ranks: Ranks, minutes: float) -> None:
        self.ranks, self.timeout = ranks, timedelta(minutes=minutes)
        self._minutes, self._round = f"{minutes:g} minutes", 0
        self._hosts_store = ranks.rank == 0 and not ranks.agent_hosts
        self._store = self._open()
        self.hosts: list[str] = self.exchange(socket.gethostname())

    def _open(self) -> Store:
        ranks = self.ranks
        address = ranks.address or _first_host(ranks.nodes)
        try:
            socket.getaddrinfo(address, ranks.port)
            store = TCPStore(address, ranks.port, ranks.size, self._hosts_store, self.timeout, wait_for_workers=False)
        except OSError as error:
            raise UserError(
                f"Expected the address of rank 0 in MASTER_ADDR, but {address} is none that this machine knows "
                f"({error.strerror}); give a name or an IP address that all machines can reach."
            ) from None
        except (DistNetworkError, DistStoreError) as error:
            if self._hosts_store and "in use" in str(error):
                raise UserError(
                    f"Expected the port {ranks.port} of {address} to be free for the ranks to meet at, but another "
                    "program uses it; set MASTER_PORT to another one for all ranks."
                ) from None
            raise UserError(
                f"Expected rank 0 at {address}, port {ranks.port}, within {self._minutes}, but it cannot be reached; "
                "see whether it runs, and whether MASTER_ADDR and MASTER_PORT are right on all machines."
            ) from None
        # torchrun's agent keeps what was said before it started its ranks again.
        return PrefixStore(f"nnunetv2_ext/{ranks.restarts if ranks.agent_hosts else 0}", store)

    def store(self, name: str) -> Store:
        """A part of the store, for torch."""
        return PrefixStore(name, self._store)

    def exchange(self, value: Any) -> list[Any]:
        """What every rank has said in this round, which each enters with one value that JSON can hold.

        Raises:
            UserError: A rank has not come in time, or rank 0 has gone.
        """
        self._round += 1
        try:
            said = self._collect(str(self._round), value, self.timeout)
        except DistNetworkError:
            raise UserError(
                "Expected rank 0 to stay until all ranks agree, but it has ended; see what it says."
            ) from None
        if absent := ", ".join(str(rank) for rank in range(self.ranks.size) if rank not in said):
            raise UserError(
                f"Expected {self.ranks.size} ranks within {self._minutes}, but rank {absent} did not come; see what "
                "became of it, or give more time with --timeout_minutes."
            )
        return [said[rank] for rank in range(self.ranks.size)]

    def together(self, work: Callable[[], T]) -> list[T]:
        """What the work gives in every rank; where it fails in one, all end with the sentence.

        Raises:
            UserError: That of the first rank where the work has raised one.
        """
        sentence, result = None, None
        try:
            result = work()
        except UserError as error:
            sentence = str(error)
        sentences, results = zip(*self.exchange((sentence, result)), strict=True)
        for rank, found in enumerate(sentences):
            if found is not None:
                raise UserError(found if len(set(sentences)) == 1 else f"On {self.name(rank)}: {found}")
        return list(results)

    def name(self, rank: int) -> str:
        """A rank and where it runs."""
        return f"rank {rank} on {self.hosts[rank]}"

    def say_end(self, code: int | None, sentence: str) -> None:
        """Lets the others know why this rank ends before the training does."""
        self._collect("end", (code, sentence), timedelta(0))

    def roll_call(self) -> tuple[list[int], dict[int, tuple[int | None, str]]]:
        """After the group has broken: the ranks that are lost, and why others have ended."""
        try:
            said = self._collect("end", None, timedelta(seconds=_SECONDS_OF_ROLL_CALL))
        except DistNetworkError:
            # Who holds the store is gone.
            return [0], {}
        lost = [rank for rank in range(self.ranks.size) if rank not in said]
        return lost, {rank: tuple(why) for rank, why in said.items() if why is not None}

    def wait_for_rank_0(self) -> None:
        """Lets the others end with rank 0, which sums the training up: launchers end those that come last."""
        if self.ranks.rank == 0:
            self._store.set("done", "")
        while not (self._store.check(["done"]) or self._store.check(["end/0"])):
            time.sleep(0.1)

    def __enter__(self) -> Meeting:
        return self

    def __exit__(self, *_: object) -> None:
        # The rank that holds the store ends when the others no longer need it.
        with contextlib.suppress(DistNetworkError):
            self._collect("left", None, timedelta(seconds=_SECONDS_OF_ROLL_CALL if self._hosts_store else 0))

    def _collect(self, key: str, value: Any, timeout: timedelta) -> dict[int, Any]:
        """Says something and returns what was said until all have, or the time is up."""
        self._store.set(f"{key}/{self.ranks.rank}", json.dumps(value))
        end, said = time.monotonic() + timeout.total_seconds(), {}
        for rank in range(self.ranks.size):
            name = f"{key}/{rank}"
            if (left := end - time.monotonic()) > 0:
                with contextlib.suppress(DistStoreError):
                    self._store.wait([name], timedelta(seconds=left))
            if self._store.check([name]):
                said[rank] = json.loads(self._store.get(name))
        return said


def _first_host(nodes: str) -> str:
    """The first host of Slurm's expression; the address that Slurm itself gives is that of srun."""
    words = ["scontrol", "show", "hostnames", nodes]
    try:
        found = subprocess.run(words, capture_output=True, encoding="utf-8", errors="replace", check=True)
        return found.stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError) as error:
        why = getattr(error, "stderr", None) or error
        raise UserError(
            f"Expected scontrol to tell the hosts of {nodes or 'this job'}, but it does not ({str(why).strip()}); set "
            "MASTER_ADDR to the host of rank 0."
        ) from None
