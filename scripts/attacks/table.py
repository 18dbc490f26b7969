"""What a try is, what is expected of it, and the table of all kinds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from attacks.sandbox import Sandbox

#: Exit codes of a command that refuses its input, and of a batch with a bad case in it.
REFUSED = frozenset({1, 2})
#: Where the input may be taken or refused, and only damage, a crash or a traceback counts.
ANY = frozenset({0, 1, 2})
ACCEPTED = frozenset({0})
#: 75: a training that goes on with --c.
INTERRUPTED = frozenset({1, 2, 75, 130, 143})

SetUp = Callable[[Sandbox], Sequence[str]]
#: Looks at what a command has left in the sandbox (and printed); returns what is wrong with it.
Check = Callable[[Sandbox, str], Iterable[str]]


@dataclass(frozen=True)
class Expect:
    """What the judge holds a command to, beside what it holds every command to.

    Attributes:
        codes: Admissible exit codes.
        targets: What the command may change, relative to the sandbox.
        says: Regular expression that the output has to match: a refusal names what it refuses.
        checks: Further looks at the sandbox.
    """

    codes: frozenset[int] = REFUSED
    targets: tuple[str, ...] = ("out",)
    says: str = ""
    checks: tuple[Check, ...] = ()


class Runner(Protocol):
    """What a driver may do; see `runner.Runner`."""

    def start(self, box: Sandbox, command: str, argv: Sequence[str], **options: Any) -> Any:
        """Starts a command in the sandbox."""


#: Runs one or several commands itself (signals, races); returns what is wrong.
Driver = Callable[[Any, Sandbox], Iterable[str]]


@dataclass(frozen=True)
class Try:
    """One hostile file or fault, met by one command.

    Attributes:
        command: Without ``nnUNetv2_ext_``.
        name: Tells it from others of its kind and command.
        examples: Each sets a sandbox up and returns the arguments; the try holds if all of them do.
        expect: What is expected of every example.
        driver: For tries of several processes: called instead of running the command once.
        seconds: Of the CPUs, that one example may take.
        options: Further arguments of `client.Server.start`.
        kind: Set by the table.
    """

    command: str
    name: str
    examples: tuple[SetUp, ...]
    expect: Expect = Expect()
    driver: Driver | None = None
    seconds: float = 40
    options: Mapping[str, Any] = field(default_factory=dict)
    kind: str = ""

    @property
    def title(self) -> str:
        """How it is called in the report."""
        return f"{self.kind} / {self.command} / {self.name}"


@dataclass(frozen=True)
class Kind:
    """A kind of file or fault.

    Attributes:
        name: With which ``--only`` chooses it.
        make: Yields its tries.
        slow: Whether its tries take long: they are left out of the quick part.
        needs: Why it cannot be tried on this machine; empty where it can.
        strategy: Kinds of one strategy are examples of it: every command meets one of them.
    """

    name: str
    make: Callable[[], Iterable[Try]]
    slow: bool = False
    needs: Callable[[], str] = lambda: ""
    strategy: str = ""

    def tries(self) -> Iterator[Try]:
        """All tries of the kind."""
        for each in self.make():
            yield replace(each, kind=self.name)


KINDS: dict[str, Kind] = {}


def kind(
    name: str, *, slow: bool = False, needs: Callable[[], str] = lambda: "", strategy: str = ""
) -> Callable[[Callable[[], Iterable[Try]]], Callable[[], Iterable[Try]]]:
    """Enters a generator of tries into the table."""

    def enter(make: Callable[[], Iterable[Try]]) -> Callable[[], Iterable[Try]]:
        if name in KINDS:
            raise ValueError(f"The kind {name} is in the table already.")
        KINDS[name] = Kind(name, make, slow, needs, strategy)
        return make

    return enter


def pick(values: Sequence[Any], turn: int, number: int) -> list[Any]:
    """Some of the values, other ones at every turn."""
    return [values[(turn * number + index) % len(values)] for index in range(min(number, len(values)))]


def file_names(folder: Path) -> list[str]:
    """Names of what is in a folder; nothing where there is no folder."""
    return sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
