"""Calls with an answer: who serves them.

    async with RPCServer("amqp://shop@rabbitmq1/%2Ffog", "math.rpc") as server:

        @server.handler
        async def add(a: int, b: int) -> int:
            return a + b

        await server.run()

Requests wait in a quorum queue, `rpc.<service>`, which goes a minute after its last server. A request is acked after
its answer was sent, so one whose server dies is run again by the next, as long as its caller waits. The answer goes to
the caller's own queue on `rpc.direct`; why not direct reply-to: it needs write on the default exchange, which is write
on every queue.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from types import TracebackType
from typing import Any, TypeVar

import anyio

from fogactors.core import ChildSpec
from fogactors.errors import ActorError, ConfigError
from fogactors.messaging.handlers import Handler
from fogactors.messaging.rpc_serving import CLOSE_S, Service, Serving, check_service
from fogactors.messaging.session import Session
from fogactors.messaging.threads import Threads
from fogactors.wire.topology import RPC

__all__ = ["RPCServer"]

F = TypeVar("F", bound=Callable[..., Any])


class RPCServer:
    """One service, and the function behind it. `async with` connects, `run` or `start` serves.

    `broker`: a URL (see `Session.open`), or a session that others use as well. `service`: what callers name, such as
    `math.rpc`. `concurrency`: requests that are carried out at once, in the loop or, with a plain function, in so many
    threads; one that outlasts its caller keeps its place until it ends. `prefetch`: requests that the broker hands over
    before they are answered (by default `concurrency`; more of them saves a round trip, and takes them from other
    servers). `drain_s`: seconds that what runs may take on a stop. `name`: of the connection, and what answers say who
    they are from. `exchange`: a direct exchange, which must exist; that of the callers.

    Raises `ConfigError` for what cannot be; on entering, what `Session.open` raises.
    """

    def __init__(
        self,
        broker: str | Session,
        service: str,
        *,
        concurrency: int = 100,
        prefetch: int | None = None,
        drain_s: float = 10.0,
        name: str = "",
        exchange: str = RPC,
    ) -> None:
        prefetch = concurrency if prefetch is None else prefetch
        if not 1 <= concurrency <= prefetch <= 65_535:
            raise ConfigError(f"{service}: 1 <= concurrency <= prefetch <= 65535, not {concurrency} and {prefetch}")
        if not 0 <= drain_s < math.inf:
            raise ConfigError(f"{service}: drain_s must be 0 or more and finite, not {drain_s}")
        self.service = check_service(service)
        self.exchange = exchange
        self._broker = broker
        self._name = name or service
        self._concurrency, self._prefetch, self._drain_s = concurrency, prefetch, drain_s
        self.threads = Threads(concurrency)
        self._handler: Handler | None = None
        self._session: Session | None = None
        self._stack = AsyncExitStack()

    def handler(self, fn: F) -> F:
        """As a decorator: this function answers. Plain or `async`; see `fogactors.messaging.handlers` for its types.
        Raises `ConfigError` when it cannot, or there is one."""
        if self._handler is not None:
            raise ConfigError(f"{self.service} has a handler, {self._handler.name}; a service has one")
        self._handler = Handler(fn)
        return fn

    def register_handler(self, fn: Callable[..., Any]) -> None:
        """As `handler`, and no decorator."""
        self.handler(fn)

    async def __aenter__(self) -> RPCServer:
        broker = self._broker
        if isinstance(broker, str):
            broker = await self._stack.enter_async_context(Session.open(broker, self._name))
        self._session = broker
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(ActorError), anyio.CancelScope(shield=True):
            await self.stop()
        self._session = None
        await self._stack.__aexit__(kind, error, trace)

    @property
    def session(self) -> Session:
        """Its connection. Raises `ConfigError` outside of `async with`."""
        if self._session is None:
            raise ConfigError(f"{self.service}: use it inside `async with RPCServer(...)`")
        return self._session

    async def start(self) -> None:
        """Serve; returns when the broker knows of it. Raises `ConfigError` without a handler, `TopologyMismatch` when
        there is no such exchange, and what `Session.start` raises."""
        if self._handler is None:
            raise ConfigError(f"{self.service} has no handler; give it one with @server.handler")
        service = Service(
            self.service, self._handler, self._concurrency, self._prefetch, self._drain_s, self.threads, self.exchange
        )
        session = self.session
        await session.start(
            ChildSpec(
                id=self._id,
                factory=lambda: Serving(session, service),
                shutdown_s=self._drain_s + CLOSE_S,
                mailbox=self._prefetch + 1,
            )
        )

    async def stop(self) -> None:
        """Serve no more: what runs may finish, what waits goes back to the queue. Raises `ActorError` when it does not
        serve."""
        await self.session.stop(self._id, drain_s=self._drain_s)

    async def run(self) -> None:
        """Serve until it is cancelled."""
        await self.start()
        await anyio.sleep_forever()

    @property
    def _id(self) -> str:
        return f"rpc-server-{self.service}"
