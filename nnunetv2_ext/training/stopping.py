"""The signals that batch systems send to ask for an end, and what a training makes of them."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

GO_ON_LATER = 75
"""Exit code of a training that a signal stopped and ``--c`` goes on with (EX_TEMPFAIL)."""

# SIGUSR1 is what Slurm's --signal and Grid Engine's -notify are usually told to send; Windows does not have it.
STOP_SIGNALS = [number for number in signal.Signals if number.name in ("SIGTERM", "SIGUSR1")]


@contextmanager
def stop_signals_call(handle: Callable[[signal.Signals], None]) -> Iterator[None]:
    """Lets the signals call a function, in this process alone: those that it forks end as they would without us.

    Outside the main thread, which alone can handle signals, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    owner = os.getpid()

    def receive(number: int, _: FrameType | None) -> None:
        if os.getpid() != owner:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        handle(signal.Signals(number))

    before = {number: signal.signal(number, receive) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def go_on_later(_: signal.Signals) -> None:
    """Ends the process with the exit code that says so, for work that begins again where it is interrupted."""
    for number in STOP_SIGNALS:
        # Nothing disturbs the tidying up.
        signal.signal(number, signal.SIG_IGN)
    raise SystemExit(GO_ON_LATER)
