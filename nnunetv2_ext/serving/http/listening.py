"""Where a server listens."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from nnunetv2_ext.utilities.errors import UserError

_HIGHEST_PORT = 65535


@contextmanager
def listen(host: str, port: int) -> Iterator[tuple[socket.socket, str]]:
    """Takes an address before models are read.

    Args:
        host: A name or number.
        port: 0 takes a free one.

    Yields:
        The socket, and the address of the server for people.

    Raises:
        UserError: The address is taken or none of this machine.
    """
    if port > _HIGHEST_PORT:  # of which the system would take another one
        raise UserError(f"Expected a free port, but {port} is none; take one up to {_HIGHEST_PORT}.")
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        opened = socket.socket(family, kind)
    except OSError as error:
        raise UserError(f"Expected an address of this machine as --host, but {host} is none ({error}).") from None
    with opened:
        try:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            opened.bind(address)
            opened.listen(128)
        except OSError as error:
            raise UserError(f"Expected a free port, but {port} of {host} is none ({error}); take another.") from None
        name = f"[{host}]" if ":" in host else host
        yield opened, f"http://{name}:{opened.getsockname()[1]}"
