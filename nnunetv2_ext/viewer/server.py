"""Hands the viewer's page out to the browsers of this machine."""

from __future__ import annotations

import logging
import secrets
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.viewer.page import served_page
from nnunetv2_ext.viewer.scene import Scene

_logger = logging.getLogger(__name__)
_HOST = "127.0.0.1"


class ViewServer(ThreadingHTTPServer):
    """Listens on the loopback address; other users of the machine do not know the path.

    Args:
        scene: What to show.
        title: Heading of the page.
        port: Where to listen; 0 takes a free port.

    Raises:
        UserError: The port is taken or not allowed.
    """

    daemon_threads = True

    def __init__(self, scene: Scene, title: str, port: int = 0) -> None:
        try:
            super().__init__((_HOST, port), _Handler)
        except (OSError, OverflowError) as error:
            raise UserError(f"Expected a free port, but {port} is none ({error}); take another.") from error
        self.path = f"/{secrets.token_urlsafe(16)}/"
        page = served_page(scene, title).encode()
        self.contents: dict[str, tuple[str, bytes | memoryview]] = {self.path: ("text/html; charset=utf-8", page)}
        for name, voxels in scene.sources().items():
            self.contents[self.path + name] = ("application/octet-stream", voxels)

    @property
    def address(self) -> str:
        """Where a browser finds the page."""
        return f"http://{_HOST}:{self.server_port}{self.path}"


class _Handler(BaseHTTPRequestHandler):
    server: ViewServer

    def do_GET(self) -> None:
        # A page of another site that has a name of its own point to this machine must not read the scan.
        of_this_machine = self.headers.get("Host") == f"{_HOST}:{self.server.server_port}"
        if not of_this_machine or self.path not in self.server.contents:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        kind, content = self.server.contents[self.path]
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        _logger.debug(format, *args)
