"""Calls with an answer, without asyncio.

server = RPCServer("amqp://kitty:changeme@localhost:5672/", "math.rpc")
server.connect()
server.register_handler(lambda request: {"result": request["a"] + request["b"]})
server.start()

with RPCClient("amqp://kitty:changeme@localhost:5672/") as client:
    result = client.call("math.rpc", {"a": 5, "b": 3}, timeout=30)
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar, overload

from fogactors.errors import ConfigError
from fogactors.messaging.blocking.defaults import broker_url, program_name
from fogactors.messaging.blocking.events import check_plain
from fogactors.messaging.blocking.face import Face
from fogactors.messaging.facts import log_fact
from fogactors.messaging.handlers import Handler
from fogactors.messaging.rpc import RPCServer as AsyncRPCServer
from fogactors.messaging.rpc_client import RPCClient as AsyncRPCClient
from fogactors.messaging.rpc_serving import RequestDropped, RequestFailed
from fogactors.messaging.session import Session
from fogactors.messaging.threads import Threads
from fogactors.wire.topology import RPC

__all__ = ["RPCClient", "RPCServer"]

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

_log: Final = logging.getLogger("fogactors.blocking")


class RPCServer(Face[Session]):
    """One service, and the function behind it: `connect()`, `register_handler(fn)`, `start()`.

    `url`: as for `EventBus`. `service`: what callers name, such as `math.rpc`. `concurrency`: requests that are carried
    out at once, each in a thread; 1 for a handler that other threads must not meet. `exchange`: of the callers too. The
    others, and what is raised, are those of `fogactors.RPCServer`; see `Face` for more.
    """

    def __init__(
        self,
        url: str | None = None,
        service: str = "",
        *,
        concurrency: int = 100,
        prefetch: int | None = None,
        drain_s: float = 10.0,
        name: str = "",
        exchange: str = RPC,
        connect_timeout_s: float = 10.0,
    ) -> None:
        super().__init__()
        self.service = service
        self.exchange = exchange
        self._url = url
        self._name = name or service
        self._connect_timeout_s = connect_timeout_s
        self._options: dict[str, Any] = {
            "concurrency": concurrency,
            "prefetch": prefetch,
            "drain_s": drain_s,
            "exchange": exchange,
        }
        self._handler: Callable[..., Any] | None = None
        self._threads = Threads(concurrency)  # of all its connections: a thread may outlive one
        AsyncRPCServer(broker_url(url), service, **self._options)  # so that what cannot be is said here

    def __repr__(self) -> str:
        return f"RPCServer of {self.service}"

    @asynccontextmanager
    async def _make(self) -> AsyncGenerator[Session]:
        async with Session.open(broker_url(self._url), self._name, timeout=self._connect_timeout_s) as session:
            session.events.subscribe(_log_fact)
            yield session

    def register_handler(self, fn: Callable[..., Any]) -> None:
        """This function answers. It takes the whole request, or its fields by their names: see
        `fogactors.messaging.handlers`. What it raises is its caller's `RemoteError`. Raises `ConfigError` when it
        cannot, or there is one."""
        check_plain(fn)
        if self._handler is not None:
            raise ConfigError(f"{self.service} has a handler, {self._handler!r}; a service has one")
        Handler(fn)
        self._handler = fn

    def handler(self, fn: F) -> F:
        """As `register_handler`, as a decorator."""
        self.register_handler(fn)
        return fn

    def start(self) -> None:
        """Serve; block until Ctrl-C, SIGTERM, `stop()` or `disconnect()`. Then no more is taken, what waits goes back,
        what runs may take `drain_s`, and it returns.

        A second signal ends the process at once. In a thread that is not the main one it waits for `stop()`, the end of
        the main thread, or a signal that stops another wait in the main thread.

        Raises `ConfigError` without a handler, `TopologyMismatch` when there is no such exchange, `BusUnavailable`,
        `AccessRefused`.
        """
        fn = self._handler
        if fn is None:
            raise ConfigError(f"{self.service} has no handler; call register_handler() before start()")
        with self._blocking("start") as wait:
            server = self._call(lambda session: self._begin(session, fn))
            try:
                wait.until_stopped()
            finally:
                self._finish(lambda _: _end(server))

    async def _begin(self, session: Session, fn: Callable[..., Any]) -> AsyncRPCServer:
        server = AsyncRPCServer(session, self.service, **self._options)
        server.threads = self._threads
        server.register_handler(fn)
        await server.__aenter__()
        await server.start()
        return server


class RPCClient(Face[AsyncRPCClient]):
    """Calls services: `with RPCClient(url) as client`. Threads may share one: their calls wait for no one but each for
    its own answer.

    `url`: as for `EventBus`. `name`: of the connection; by default that of the program. `exchange`: of the servers too.
    See `Face` for more.
    """

    def __init__(
        self, url: str | None = None, *, name: str = "", exchange: str = RPC, connect_timeout_s: float = 10.0
    ) -> None:
        super().__init__()
        self.exchange = exchange
        self._url = url
        self._name = name or program_name()
        self._connect_timeout_s = connect_timeout_s

    def __repr__(self) -> str:
        return f"RPCClient {self._name}"

    @asynccontextmanager
    async def _make(self) -> AsyncGenerator[AsyncRPCClient]:
        async with (
            Session.open(broker_url(self._url), self._name, timeout=self._connect_timeout_s) as session,
            AsyncRPCClient(session, exchange=self.exchange) as client,
        ):
            yield client

    @overload
    def call(self, service: str, request: Any, timeout: float = 30.0) -> Any: ...
    @overload
    def call(self, service: str, request: Any, timeout: float = 30.0, *, returns: type[T]) -> T: ...
    def call(self, service: str, request: Any, timeout: float = 30.0, *, returns: type[T] | None = None) -> T | Any:
        """Ask, and wait for the answer for up to `timeout` seconds, a wait for the connection included. `returns`: its
        type, which is checked; else it is what JSON makes of it.

        Raises `RemoteError` (what the service raised), `NoSuchService`, `CallTimeout`, `CallLost`, `BusUnavailable`,
        `QueueFull`, `MessageTooLarge`, `WireError`; docs/rpc.md says after which it may have been carried out.
        """
        if returns is None:
            return self._call(lambda client: client.call(service, request, timeout=timeout))
        return self._call(lambda client: client.call(service, request, timeout=timeout, returns=returns))


async def _end(server: AsyncRPCServer) -> None:
    await server.__aexit__(None, None, None)


def _log_fact(fact: object) -> None:
    match fact:
        case RequestFailed():
            _log.warning("%s: request %s failed: %s", fact.service, fact.request_id, fact.error)
        case RequestDropped():
            _log.warning("%s: request %s has no answer: %s", fact.service, fact.request_id, fact.reason)
        case _:
            log_fact(fact)
