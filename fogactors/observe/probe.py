"""`/livez` and `/readyz`, on a port of their own.

From a thread, because what keeps a process from answering may be its event loop, and then that is the answer. The
thread asks the loop for a turn twice a second and reads what was seen there; it never waits for it.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from fogactors.errors import ConfigError
from fogactors.roles.health import Health

__all__ = ["ProbeServer", "probing"]

TURN_S: Final = 0.5
"""How often the loop is asked for a turn; so old may an answer be."""
READ_S: Final = 5.0
"""How long a client may take to say what it wants."""
CLOSE_S: Final = 2.0


class _Handler(BaseHTTPRequestHandler):
    timeout = READ_S
    server: ProbeServer  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_GET(self) -> None:
        match self.path.partition("?")[0]:
            case "/livez":
                report = self.server.health.report("livez", self.server.silent_s)
            case "/readyz":
                report = self.server.health.report("readyz", self.server.silent_s)
            case _:
                self.send_error(HTTPStatus.NOT_FOUND, "there are /livez and /readyz")
                return
        body = json.dumps({"ok": report.ok, "facts": report.facts}).encode() + b"\n"
        self.send_response(HTTPStatus.OK if report.ok else HTTPStatus.SERVICE_UNAVAILABLE)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815 - the library's name

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Nothing: a probe every few seconds is no news."""


class ProbeServer(ThreadingHTTPServer):
    """Made and closed on the loop that it looks at. `port` 0 takes any that is free; `address` says which."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, host: str, port: int, health: Health) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), _Handler)
        self.health = health
        self._loop = asyncio.get_running_loop()
        self._turned = time.monotonic()
        self._asked = False
        self._thread = threading.Thread(
            target=self.serve_forever, kwargs={"poll_interval": TURN_S}, name="fogactors probe", daemon=True
        )
        health.look()
        self._thread.start()

    @property
    def address(self) -> tuple[str, int]:
        return self.server_address[0], self.server_address[1]  # pyright: ignore[reportReturnType]

    @property
    def silent_s(self) -> float:
        return time.monotonic() - self._turned

    def service_actions(self) -> None:
        if not self._asked:  # one at a time: a loop that hangs must not find a heap of them
            self._asked = True
            with suppress(RuntimeError):  # the loop is closed, and so are we next
                self._loop.call_soon_threadsafe(self._turn)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up in the middle is its own business."""

    def _turn(self) -> None:
        self._turned = time.monotonic()
        self._asked = False
        self.health.look()

    def close(self) -> None:
        """Takes up to `TURN_S`. The thread needs nothing of the loop for its end, so it may be waited for on it."""
        self.shutdown()
        self.server_close()
        self._thread.join(CLOSE_S)


@contextmanager
def probing(host: str, port: int, *, dead_s: float = 60.0) -> Generator[Health]:
    """Answer probes while the body runs; with port 0 there are none. Raises `ConfigError` when the port cannot be
    had."""
    health = Health(dead_s=dead_s)
    if port == 0:
        yield health
        return
    try:
        server = ProbeServer(host, port, health)
    except OSError as error:
        text = f"[probe] host = {host!r}, port = {port}: cannot be listened on: {error.strerror or error}"
        raise ConfigError(f"{text}; each process needs a port of its own") from error
    try:
        yield health
    finally:
        server.close()
