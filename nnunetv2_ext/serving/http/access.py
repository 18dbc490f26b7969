"""Who may ask, and how much they may send."""

from __future__ import annotations

import secrets
from collections.abc import Collection
from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nnunetv2_ext.serving.errors import RefusedError
from nnunetv2_ext.serving.http.answers import NOTICE, refusal
from nnunetv2_ext.utilities.errors import UserError

#: Addresses that only this machine reaches.
LOOPBACK = ("127.0.0.1", "::1", "localhost")

_SHORTEST_TOKEN = 16


def read_token(file: Path) -> str:
    """The token of a file.

    Raises:
        UserError: It cannot be read, or is too short to be a secret.
    """
    try:
        token = file.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise UserError(f"Expected a token in {file}, but it cannot be read ({error}).") from None
    if len(token) < _SHORTEST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise UserError(
            f"Expected a token of at least {_SHORTEST_TOKEN} letters and digits in {file}, but found another text; "
            "write one, for example with: openssl rand -hex 32"
        )
    return token


class Gate:
    """Stands before the application: lets in who may, no more than is admitted, and marks every answer.

    Args:
        app: The application.
        token: What requests must carry as ``Authorization: Bearer TOKEN``; none by default.
        hosts: What the host may be called; anything where it is empty. Pages of other sites cannot ask under a name
            that they point to this machine.
        upload_bytes: How large a request may be.
    """

    def __init__(self, app: ASGIApp, token: str | None, hosts: Collection[str], upload_bytes: int) -> None:
        self._app, self._hosts, self._bytes = app, frozenset(hosts), upload_bytes
        self._wanted = None if token is None else f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["X-Notice"] = NOTICE
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Cache-Control"] = "no-store"
            await send(message)

        headers = Headers(scope=scope)
        answer = self._refusal(headers, scope["path"])
        if answer is not None:
            await answer(scope, receive, send_marked)
            return
        received = 0

        async def receive_some() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._bytes:
                raise RefusedError(413, self._too_large)
            return message

        await self._app(scope, receive_some, send_marked)

    @property
    def _too_large(self) -> str:
        return (
            f"Expected at most {self._bytes >> 20} MiB, but the request is larger; send less, or raise --max_upload_mb."
        )

    def _refusal(self, headers: Headers, path: str) -> ASGIApp | None:
        host = _name(f"//{headers.get('host', '')}")
        if self._hosts and host not in self._hosts:
            return refusal(
                421, f"Expected a request to {' or '.join(sorted(self._hosts))}, but got one to another name."
            )
        # Browsers send forms of any page anywhere, but say whose.
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != headers.get("host"):
            return refusal(
                403, "Expected a request of a page of this server or of a program, but got one of another page."
            )
        if self._wanted is not None and path != "/health":
            given = headers.get("authorization", "").encode()
            if not secrets.compare_digest(given, self._wanted):
                hint = {"WWW-Authenticate": "Bearer"}
                return refusal(401, "Expected the token of this server as 'Authorization: Bearer TOKEN'.", hint)
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > self._bytes:
            return refusal(413, self._too_large)
        return None


def _name(address: str) -> str | None:
    try:
        return urlsplit(address).hostname
    except ValueError:
        return None
