"""The bus without a broker beside it: a client of the embedded one. For tests, for trying out, and for one
process."""

from __future__ import annotations

from itertools import count
from typing import Final, Literal

import anyio
import anyio.lowlevel

from fogactors.bus.base import (
    MAX_BODY,
    BusStats,
    Consumer,
    DeliveryHandler,
    LostHandler,
    Message,
    QueueInfo,
)
from fogactors.bus.embedded.broker import MemoryBroker
from fogactors.bus.embedded.channel import Connection
from fogactors.errors import BusUnavailable, MessageTooLarge, QueueMissing
from fogactors.wire.topology import Topology

__all__ = ["MemoryBus"]

_YIELD_EVERY: Final = 16
"""Publishes between two turns of the event loop. One turn each would cost more than the publish; none would
let a flood starve everybody else."""

_names = count(1)


class MemoryBus:
    """One connection to a `MemoryBroker`; several of them share one broker. A `fogactors.bus.base.Bus`.

    Deliveries come within the call that causes them (a publish, a settle, a consume), so the first may come
    before `consume` returns. `name` is what `MemoryBroker.kill_connection` takes.
    """

    def __init__(self, broker: MemoryBroker, *, name: str = "", max_body: int = MAX_BODY) -> None:
        self.name = name or f"client-{next(_names)}"
        self.stats = BusStats()
        self._broker = broker
        self._max_body = max_body
        self._connection: Connection | None = None
        self._opened = anyio.Event()
        self._turn = 0

    @property
    def user(self) -> str:
        """The one that there is: the embedded broker asks for no login."""
        return "guest"

    @property
    def version(self) -> tuple[int, int]:
        """The one whose behaviour the embedded broker has."""
        return (4, 3)

    @property
    def is_open(self) -> bool:
        return self._connection is not None and self._connection.reason is None

    @property
    def is_blocked(self) -> bool:
        """Never: the embedded broker has no alarms."""
        return False

    async def open(self, timeout: float = 10.0) -> None:
        """Connect, at once or not at all; `timeout` is part of the protocol. Does nothing when open."""
        await anyio.lowlevel.checkpoint()
        if self.is_open:
            return
        self._connection = self._broker.connect(self.name, self.stats)
        self.stats.connections += 1
        opened, self._opened = self._opened, anyio.Event()
        opened.set()

    async def wait_open(self) -> None:
        while not self.is_open:
            await self._opened.wait()

    async def wait_lost(self) -> str:
        """At once, when it was never open."""
        connection = self._connection
        if connection is None:
            return "never connected"
        await connection.ended.wait()
        return connection.reason or "ended"

    async def close(self) -> None:
        if self._connection is not None:
            self._broker.disconnect(self._connection, "closed by this client", by_client=True)

    async def publish(
        self, exchange: str, key: str, message: Message, *, mandatory: bool = True, timeout: float = 10.0
    ) -> None:
        size = len(message.body)
        if size > self._max_body:
            raise MessageTooLarge(
                f"{size} bytes for {exchange!r} are over the limit of {self._max_body}", unsent=message
            )
        connection = self._connection
        rest = timeout
        if connection is None or connection.reason is not None:
            connection, rest = await self._wait_connection(message, timeout)
        self._broker.publish(exchange, key, message, mandatory=mandatory)
        faults = self._broker.faults
        if faults.take_lost_confirm():
            raise BusUnavailable("the confirm was lost, by a fault; the message may have arrived", unsent=message)
        if faults.confirm_delay_s > 0:
            await self._await_confirm(connection, message, faults.confirm_delay_s, rest)
        self.stats.published += 1
        self._turn += 1
        if self._turn % _YIELD_EVERY == 0:
            await anyio.lowlevel.checkpoint()

    async def consume(
        self,
        queue: str,
        on_delivery: DeliveryHandler,
        *,
        prefetch: int,
        priority: int = 0,
        on_lost: LostHandler | None = None,
        offset: int | Literal["first", "next"] | None = None,
    ) -> Consumer:
        return self._broker.subscribe(
            self._require(),
            queue,
            on_delivery,
            prefetch=prefetch,
            priority=priority,
            on_lost=on_lost,
            offset=offset,
        )

    async def inspect(self, queue: str) -> QueueInfo:
        return self._broker.queue(queue, self._require()).info()

    async def purge(self, queue: str) -> int:
        """Also raises `BusError` for a stream."""
        return self._broker.queue(queue, self._require()).purge()

    async def delete(self, queue: str) -> None:
        connection = self._require()
        try:
            self._broker.queue(queue, connection)
        except QueueMissing:
            return
        self._broker.delete_queue(queue)

    async def declare(self, topology: Topology) -> None:
        self._require()
        self._broker.declare(topology)

    async def check(self, topology: Topology) -> list[str]:
        self._require()
        return self._broker.missing(topology)

    async def open_exclusive(
        self, name: str, bindings: tuple[tuple[str, str], ...], *, max_length: int | None = None
    ) -> str:
        """An empty name: the broker makes one up. Raises `AccessRefused` for a name that is taken,
        `TopologyMismatch` for an exchange that does not exist."""
        return self._broker.declare_exclusive(self._require(), name, bindings, max_length)

    def _require(self) -> Connection:
        connection = self._connection
        if connection is None:
            raise BusUnavailable("not connected")
        if connection.reason is not None:
            raise BusUnavailable(f"not connected: {connection.reason}")
        return connection

    async def _wait_connection(self, message: Message, timeout: float) -> tuple[Connection, float]:
        """The connection, and what is left of the deadline."""
        with self._broker.publish_waits(), anyio.move_on_after(timeout) as scope:
            await self.wait_open()
        try:
            return self._require(), max(0.0, scope.deadline - anyio.current_time())
        except BusUnavailable as error:
            raise BusUnavailable(f"{error}; waited {timeout:g} s", unsent=message) from None

    async def _await_confirm(self, connection: Connection, message: Message, delay_s: float, rest: float) -> None:
        with self._broker.publish_waits(), anyio.move_on_after(min(delay_s, rest)):
            await connection.ended.wait()
        if connection.reason is not None:
            raise BusUnavailable(
                f"{connection.reason} before the confirm; the message may have arrived", unsent=message
            )
        if delay_s > rest:
            raise BusUnavailable("no confirm in time; the message may have arrived", unsent=message)
