"""The bus on RabbitMQ: two plain connections, one to publish and one to consume.

Two, because a broker under a memory alarm stops reading from connections that publish, and settles must not wait
for that. Nothing here reconnects: `wait_lost` ends, the link that owns the bus fails, and its supervisor opens it
again.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable
from typing import Any, Literal

import anyio
from aiormq import exceptions as amqp
from aiormq.channel import Channel
from pamqp.commands import Basic

from fogactors.bus.amqp_channel import AmqpConsumer
from fogactors.bus.amqp_connection import (
    Connection,
    connect,
    disconnect,
    is_blocked,
    on_closed,
    open_channel,
    translated,
)
from fogactors.bus.base import MAX_BODY, BusStats, Consumer, DeliveryHandler, LostHandler, Message, QueueInfo
from fogactors.bus.hosts import parse_hosts
from fogactors.errors import AccessRefused, BusUnavailable, MessageTooLarge, QueueMissing, Unroutable
from fogactors.wire.topology import Topology

__all__ = ["AmqpBus"]

HEARTBEAT_S = 30
"""A loop that is blocked for 30 s keeps its connection; a silent broker is noticed within 90 s at the most."""


class AmqpBus:
    """One client of a RabbitMQ cluster. `url` may name several hosts. A `fogactors.bus.base.Bus`; on asyncio only."""

    def __init__(self, url: str, *, name: str = "", max_body: int = MAX_BODY, rng: random.Random | None = None) -> None:
        self.name = name or f"fogactors-{secrets.token_hex(4)}"
        self.stats = BusStats()
        self._hosts = parse_hosts(url)
        self._max_body = max_body
        self._rng = rng or random.Random()  # noqa: S311 - which host to try first
        self._last_good: int | None = None
        self._publishing: Connection | None = None
        self._consuming: Connection | None = None
        self._channel: Channel | None = None
        self._channel_lock = anyio.Lock()
        self._consumers: set[AmqpConsumer] = set()
        self._opened = anyio.Event()
        self._lost = anyio.Event()
        self._reason = "never connected"

    # -- the connection

    @property
    def is_open(self) -> bool:
        return self._publishing is not None and not self._lost.is_set()

    @property
    def is_blocked(self) -> bool:
        """Whether the broker has an alarm and takes no messages from us at the moment."""
        return self._publishing is not None and is_blocked(self._publishing)

    async def open(self, timeout: float = 10.0) -> None:
        if self.is_open:
            return
        await self._drop()
        refusals: list[str] = []
        order = self._hosts.order(self._last_good, self._rng)
        for index in order:
            share = timeout / len(order)
            try:
                await self._open_host(index, share)
            except BusUnavailable as error:
                refusals.append(str(error))
                continue
            self._last_good = index
            self.stats.connections += 1
            opened, self._opened = self._opened, anyio.Event()
            opened.set()
            return
        raise BusUnavailable(f"no broker of {self._hosts} can be reached: {'; '.join(refusals)}")

    async def _open_host(self, index: int, timeout: float) -> None:
        url = self._hosts.url(index, heartbeat=HEARTBEAT_S)
        publishing = await connect(url, f"{self.name} (publish)", timeout)
        try:
            consuming = await connect(url, f"{self.name} (consume)", timeout)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await disconnect(publishing)
            raise
        self._publishing, self._consuming = publishing, consuming
        self._channel = None
        lost = self._lost = anyio.Event()
        self._reason = ""
        for connection in (publishing, consuming):
            on_closed(connection, lambda why, lost=lost: self._on_closed(why, lost))

    def _on_closed(self, why: str, lost: anyio.Event) -> None:
        if not lost.is_set():
            if lost is self._lost:
                self._reason = self._reason or why
            lost.set()
            for consumer in list(self._consumers):
                consumer.lose(self._reason)
            self._consumers.clear()

    async def wait_open(self) -> None:
        while not self.is_open:
            await self._opened.wait()

    async def wait_lost(self) -> str:
        if self._publishing is None:
            return self._reason
        await self._lost.wait()
        return self._reason

    async def close(self) -> None:
        self._reason = self._reason or "closed by this client"
        for consumer in list(self._consumers):
            consumer.detach()
        self._consumers.clear()
        await self._drop()

    async def _drop(self) -> None:
        connections, self._publishing, self._consuming = (self._publishing, self._consuming), None, None
        self._channel = None
        self._lost.set()
        for connection in connections:
            if connection is not None:
                await disconnect(connection)

    # -- publishing

    async def publish(
        self, exchange: str, key: str, message: Message, *, mandatory: bool = True, timeout: float = 10.0
    ) -> None:
        what = f"publish to {exchange}, key {key}"
        if len(message.body) > self._max_body:
            text = f"{what}: the body has {len(message.body)} bytes, more than {self._max_body}"
            raise MessageTooLarge(f"{text}; publish a reference to the data instead", unsent=message)
        if not exchange:
            # Write permission on the default exchange is write permission on every queue.
            raise AccessRefused(f"{what}: nothing is published to the default exchange", unsent=message)
        properties = Basic.Properties(
            message_id=message.message_id or secrets.token_hex(8),
            message_type=message.type or None,
            content_type=message.content_type,
            correlation_id=message.correlation_id,
            reply_to=message.reply_to,
            priority=message.priority,
            expiration=None if message.expiration is None else str(int(message.expiration * 1000)),
            delivery_mode=2 if message.persistent else 1,
        )
        try:
            with anyio.fail_after(timeout):
                await self.wait_open()
                async with translated(what, message):
                    channel = await self._publish_channel()
                    try:
                        await channel.basic_publish(
                            message.body,
                            exchange=exchange,
                            routing_key=key,
                            properties=properties,
                            mandatory=mandatory,
                            wait=False,
                        )
                    except amqp.ChannelNotFoundEntity as error:
                        raise Unroutable(f"{what}: there is no such exchange", unsent=message) from error
        except TimeoutError:
            why = "it has a memory or disk alarm" if self.is_blocked else "it may still arrive"
            where = "the broker did not confirm" if self.is_open else "there was no connection to the broker"
            raise BusUnavailable(f"{what}: {where} within {timeout:g} s ({why})", unsent=message) from None
        self.stats.published += 1

    async def _publish_channel(self) -> Channel:
        channel = self._channel
        if channel is not None and not channel.is_closed:
            return channel
        async with self._channel_lock:
            if self._channel is None or self._channel.is_closed:
                if self._publishing is None:
                    raise BusUnavailable("not connected")
                self._channel = await open_channel(self._publishing, confirms=True)
            return self._channel

    # -- consuming

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
        channel = await self._open_channel(f"consume from {queue}")
        consumer = AmqpConsumer(queue, channel, self.stats, on_delivery, on_lost, self._consumers.discard)
        arguments: dict[str, Any] = {"x-priority": priority} if priority else {}
        if offset is not None:
            arguments["x-stream-offset"] = offset
        try:
            async with translated(f"consume from {queue}"):
                await consumer.start(prefetch, arguments)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await consumer.close()
            raise
        self._consumers.add(consumer)
        return consumer

    async def _open_channel(self, what: str) -> Channel:
        """On the connection that consumes: one for each use, because an error closes it."""
        if self._consuming is None or self._lost.is_set():
            raise BusUnavailable(f"{what}: not connected")
        async with translated(what):
            return await open_channel(self._consuming, confirms=False)

    async def _with_channel(self, what: str, use: Callable[[Channel], Any], timeout: float = 10.0) -> Any:
        try:
            with anyio.fail_after(timeout):
                channel = await self._open_channel(what)
                async with translated(what):
                    answer = await use(channel)
                async with translated(what):
                    await channel.close()
                return answer
        except TimeoutError:
            raise BusUnavailable(f"{what}: the broker did not answer within {timeout:g} s") from None

    # -- queues

    async def inspect(self, queue: str) -> QueueInfo:
        answer = await self._with_channel(f"inspect {queue}", lambda c: c.queue_declare(queue, passive=True))
        return QueueInfo(queue, answer.message_count, answer.consumer_count)

    async def purge(self, queue: str) -> int:
        answer = await self._with_channel(f"purge {queue}", lambda c: c.queue_purge(queue))
        return answer.message_count

    async def declare(self, topology: Topology) -> None:
        """Exchanges, queues and bindings. The policies, which must be there first, are `management.apply`'s."""

        async def make(channel: Channel) -> None:
            for exchange in topology.exchanges:
                await channel.exchange_declare(exchange.name, exchange_type=exchange.type, durable=True)
            for queue in topology.queues:
                await channel.queue_declare(queue.name, durable=True, arguments={"x-queue-type": queue.type})
            for binding in topology.bindings:
                await channel.queue_bind(binding.queue, binding.exchange, binding.key)

        await self._with_channel("declare the topology", make, timeout=60.0)

    async def check(self, topology: Topology) -> list[str]:
        missing: list[str] = []
        for exchange in topology.exchanges:
            name = exchange.name
            try:
                await self._with_channel(f"check {name}", lambda c, name=name: c.exchange_declare(name, passive=True))
            except QueueMissing:
                missing.append(f"exchange {name} is missing")
        for queue in topology.queues:
            try:
                await self.inspect(queue.name)
            except QueueMissing:
                missing.append(f"queue {queue.name} is missing")
        return missing

    async def open_exclusive(self, name: str, bindings: tuple[tuple[str, str], ...]) -> str:
        async def make(channel: Channel) -> str:
            answer = await channel.queue_declare(name, exclusive=True, durable=False)
            for exchange, key in bindings:
                await channel.queue_bind(answer.queue or name, exchange, key)
            return answer.queue or name

        return await self._with_channel(f"open the exclusive queue {name}", make)
