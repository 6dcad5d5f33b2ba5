"""A TCP proxy that has bad days: between a client and a real broker or store, in this process.

async with TcpProxy.to("127.0.0.1", 5672) as proxy:
    bus = AmqpBus(f"amqp://guest:guest@127.0.0.1:{proxy.port}/")
    ...
    proxy.cut()  # every connection is reset
    proxy.stall()  # nothing goes through, and nothing is closed; `proxy.resume()` lets it go on
    proxy.half_open()  # what the client sends arrives, what the server says is lost
    proxy.delay_s = 0.2

What it cannot play is a host that vanishes: the kernel goes on acknowledging on the proxy's behalf.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Final

import anyio
from anyio.abc import SocketAttribute, SocketStream

__all__ = ["TcpProxy"]

CHUNK: Final = 65_536
LINGER_RESET: Final = b"\x01\x00\x00\x00\x00\x00\x00\x00"
"""struct linger {on, 0 s}: closing sends a reset at once, as a host that went away does sooner or later."""


class TcpProxy:
    """One listening port on the loopback. `delay_s` holds back each chunk; `refusing` resets new connections at once;
    `accepted` counts connections since the start."""

    def __init__(self, host: str, port: int) -> None:
        self.port = 0
        self.delay_s = 0.0
        self.refusing = False
        self.accepted = 0
        self._target = (host, port)
        self._flows = _set_event()
        self._hears = _set_event()
        self._scopes: set[anyio.CancelScope] = set()

    @classmethod
    @asynccontextmanager
    async def to(cls, host: str, port: int) -> AsyncGenerator[TcpProxy]:
        proxy = cls(host, port)
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        proxy.port = listener.extra(SocketAttribute.local_port)
        async with listener, anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, proxy._serve)
            try:
                yield proxy
            finally:
                tasks.cancel_scope.cancel()

    @property
    def connections(self) -> int:
        """How many are open now."""
        return len(self._scopes)

    def cut(self) -> int:
        """Reset every connection; returns how many. New ones are accepted."""
        scopes, self._scopes = self._scopes, set()
        for scope in scopes:
            scope.cancel()
        return len(scopes)

    def stall(self) -> None:
        """Let nothing through in either direction, and close nothing, not even what the server closes."""
        if self._flows.is_set():
            self._flows = anyio.Event()

    def half_open(self) -> None:
        """Throw away what the server says, its goodbye included; what the client says still arrives."""
        if self._hears.is_set():
            self._hears = anyio.Event()

    def resume(self) -> None:
        """End `stall` and `half_open`, also for connections that were made before. What was thrown away stays lost."""
        self._hears.set()
        self._flows.set()

    async def _serve(self, client: SocketStream) -> None:
        self.accepted += 1
        async with client:
            if self.refusing:
                _reset_on_close(client)
                return
            try:
                server = await anyio.connect_tcp(*self._target)
            except OSError:
                _reset_on_close(client)  # as a port that nobody listens on
                return
            async with server:
                with anyio.CancelScope() as scope:
                    self._scopes.add(scope)
                    try:
                        async with anyio.create_task_group() as ways:
                            ways.start_soon(self._copy, client, server, False)
                            await self._copy(server, client, True)
                            ways.cancel_scope.cancel()
                    finally:
                        self._scopes.discard(scope)
                if scope.cancel_called:
                    _reset_on_close(client)
                    _reset_on_close(server)

    async def _copy(self, source: SocketStream, target: SocketStream, from_server: bool) -> None:
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
            async for chunk in source:
                if self.delay_s:
                    await anyio.sleep(self.delay_s)
                await self._flows.wait()
                if self._hears.is_set() or not from_server:
                    await target.send(chunk)
        # An end is news as well: a client must not learn through a dead line that its server has died.
        await self._flows.wait()
        if from_server:
            await self._hears.wait()
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
            await target.send_eof()


def _set_event() -> anyio.Event:
    event = anyio.Event()
    event.set()
    return event


def _reset_on_close(stream: SocketStream) -> None:
    sock = stream.extra(SocketAttribute.raw_socket, None)
    if sock is not None:
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
