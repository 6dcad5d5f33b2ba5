"""The bus on RabbitMQ: two plain connections, one to publish and one to consume.

Two, because a broker under a memory alarm stops reading from connections that publish, and settles must not wait
for that. Nothing here reconnects: `wait_lost` ends, the link that owns the bus fails, and its supervisor opens it
again.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable
from typing import Any, Final, Literal

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
    is_usable,
    on_ended,
    open_channel,
)
from fogactors.bus.amqp_errors import ANSWER_TIMEOUT_S, Call, verdict
from fogactors.bus.amqp_trial import Trial
from fogactors.bus.base import MAX_BODY, BusStats, Consumer, DeliveryHandler, LostHandler, Message, QueueInfo
from fogactors.bus.hosts import parse_hosts
from fogactors.errors import AccessRefused, BusUnavailable, MessageTooLarge, QueueMissing
from fogactors.wire.topology import Topology

__all__ = ["AmqpBus"]

HEARTBEAT_S: Final = 30
"""A loop that is blocked for 30 s keeps its connection; a broker that is frozen is noticed within 80 s. A host that
vanishes is noticed within 7 s, by the kernel, and within 4 s where something was on its way to it."""
PATIENCE_S: Final = 2.0
"""For one host while others are left to try."""
LARGE_BYTES: Final = 16 * 1024
BACKLOG_BYTES: Final = 256 * 1024
"""A large body, and any when a connection holds so much that the broker has not taken, waits with its publisher until
the socket has room, and is not sent at all when the publisher gives up: a broker that takes nothing must not fill our
memory. Small ones do not wait for each other."""


class AmqpBus:
    """One client of a RabbitMQ cluster. `url` may name several hosts. A `fogactors.bus.base.Bus`; on asyncio only."""

    def __init__(
        self,
        url: str,
        *,
        name: str = "",
        max_body: int = MAX_BODY,
        heartbeat_s: int = HEARTBEAT_S,
        rng: random.Random | None = None,
    ) -> None:
        self.name = name or f"fogactors-{secrets.token_hex(4)}"
        self.stats = BusStats()
        self._hosts = parse_hosts(url)
        self._max_body = max_body
        self._heartbeat_s = heartbeat_s
        self._rng = rng or random.Random()  # noqa: S311 - which host to try first
        self._last_good: int | None = None
        self._lost_host: int | None = None
        self._publishing: Connection | None = None
        self._consuming: Connection | None = None
        self._channel: Channel | None = None
        self._channel_lock = anyio.Lock()
        self._calls: set[Call] = set()
        self._consumers: set[AmqpConsumer] = set()
        self._openings: set[anyio.CancelScope] = set()
        self._gate = anyio.Lock()
        self._trial = Trial()
        self._opened = anyio.Event()
        self._lost = anyio.Event()
        self._reason = "never connected"
        self._version = (0, 0)

    # -- the connection

    @property
    def user(self) -> str:
        return self._hosts.user

    @property
    def version(self) -> tuple[int, int]:
        return self._version

    @property
    def is_open(self) -> bool:
        return self._publishing is not None and not self._lost.is_set()

    @property
    def is_blocked(self) -> bool:
        return self._publishing is not None and is_blocked(self._publishing)

    async def open(self, timeout: float = 10.0) -> None:
        """The host that worked last is tried first, and last when its connection was lost. `AccessRefused` only when
        every host refuses: one that has just lost its data knows no users, while its peers do."""
        deadline = anyio.current_time() + timeout
        with anyio.CancelScope() as scope:
            self._openings.add(scope)
            try:
                async with self._gate:
                    if self.is_open:
                        return
                    await self._drop("opened anew")
                    await self._open_any(deadline)
            finally:
                self._openings.discard(scope)
        if scope.cancelled_caught:
            raise BusUnavailable("closed by this client while it was opening")

    async def _open_any(self, deadline: float) -> None:
        order = self._hosts.order(self._last_good, self._rng, lost=self._lost_host)
        failures: list[BusUnavailable | AccessRefused] = []
        for tried, index in enumerate(order):
            left = len(order) - tried
            rest = deadline - anyio.current_time()
            try:
                await self._open_host(index, rest if left == 1 else min(PATIENCE_S, rest / left))
            except (BusUnavailable, AccessRefused) as error:
                failures.append(error)
                continue
            self._last_good, self._lost_host = index, None
            self.stats.connections += 1
            opened, self._opened = self._opened, anyio.Event()
            opened.set()
            return
        refused = all(isinstance(error, AccessRefused) for error in failures)
        if len(failures) == 1:
            raise failures[0]
        text = f"no broker of {self._hosts} can be used: {'; '.join(map(str, failures))}"
        raise AccessRefused(text) if refused else BusUnavailable(text)

    async def _open_host(self, index: int, timeout: float) -> None:
        url = self._hosts.url(index, heartbeat=self._heartbeat_s)
        deadline = anyio.current_time() + timeout
        publishing = await connect(url, f"{self.name} (publish)", timeout)
        try:
            consuming = await connect(url, f"{self.name} (consume)", deadline - anyio.current_time())
        except BaseException:
            with anyio.CancelScope(shield=True):
                await disconnect(publishing)
            raise
        self._publishing, self._consuming = publishing, consuming
        self._version = publishing.version
        lost = self._lost = anyio.Event()
        self._reason = ""
        for connection in (publishing, consuming):
            on_ended(connection, lambda why: self._on_ended(why, lost))
        self._trial.opened(lambda why: self._on_silence(why, lost), again=self._lost_host is not None)

    def _on_ended(self, why: str, lost: anyio.Event) -> None:
        if lost is self._lost and not lost.is_set():
            self._lost_host = self._last_good
            self._lose(why)

    def _on_silence(self, why: str, lost: anyio.Event) -> None:
        if not self.is_blocked:  # else it was told not to publish
            self._on_ended(why, lost)

    def _lose(self, why: str) -> None:
        self._reason = self._reason or why
        self._lost.set()
        self._trial.lost()
        for call in list(self._calls):
            call.lost(self._reason)
        for consumer in list(self._consumers):
            consumer.lose(self._reason)

    async def wait_open(self) -> None:
        while not self.is_open:
            await self._opened.wait()

    async def wait_lost(self) -> str:
        if self._publishing is not None:
            await self._lost.wait()
        return self._reason

    async def close(self) -> None:
        """What is being published or opened meanwhile raises `BusUnavailable`."""
        for opening in self._openings:
            opening.cancel()
        for consumer in list(self._consumers):
            consumer.detach()
        async with self._gate:
            await self._drop("closed by this client")

    async def _drop(self, why: str) -> None:
        is_lost = self._lost.is_set()
        connections = [each for each in (self._publishing, self._consuming) if each is not None]
        self._publishing = self._consuming = self._channel = None
        self._lose(why)
        self._consumers.clear()
        try:
            if not is_lost:  # else a goodbye to a host that is gone would hold up the next connection
                async with anyio.create_task_group() as tasks:
                    for connection in connections:
                        tasks.start_soon(disconnect, connection)
        finally:
            for connection in connections:
                connection.abort()

    # -- publishing

    async def publish(
        self, exchange: str, key: str, message: Message, *, mandatory: bool = True, timeout: float = 10.0
    ) -> None:
        if len(message.body) > self._max_body:
            text = (
                f"publish to {exchange}, key {key}: the body has {len(message.body)} bytes, more than {self._max_body}"
            )
            raise MessageTooLarge(f"{text}; publish a reference to the data instead", unsent=message)
        if not exchange:
            # Write permission on the default exchange is write permission on every queue.
            raise AccessRefused(f"publish with key {key}: nothing is published to the default exchange", unsent=message)
        properties = Basic.Properties(
            message_id=message.message_id or secrets.token_hex(8),
            message_type=message.type or None,
            content_type=message.content_type,
            correlation_id=message.correlation_id,
            reply_to=message.reply_to,
            priority=message.priority,
            expiration=None if message.expiration is None else str(max(0, int(message.expiration * 1000))),
            delivery_mode=2 if message.persistent else 1,
        )
        what = f"publish to {exchange}, key {key}"
        with Call(what, timeout, message) as call:
            call.late = self._why_late
            while True:
                channel = self._channel
                if channel is None or not self._takes_messages(channel):
                    channel = await self._publish_channel(call)
                call.join(self._calls)
                call.sent = True
                try:
                    await channel.basic_publish(
                        message.body,
                        exchange=exchange,
                        routing_key=key,
                        properties=properties,
                        mandatory=mandatory,
                        wait=len(message.body) >= LARGE_BYTES or self._has_backlog(),
                    )
                    break
                except (amqp.PublishError, amqp.DeliveryError):
                    self._trial.confirmed()  # it is an answer
                    raise
                except (amqp.ChannelClosed, amqp.ChannelInvalidStateError) as error:
                    # Somebody else's fault is no reason to fail: once more, with the same message id.
                    refusal = verdict(error, what, exchange, key, message)
                    if refusal is not None:
                        raise refusal from error
        if self._trial.pending:
            self._trial.confirmed()
        self.stats.published += 1

    def _why_late(self) -> str:
        if not self.is_open:
            return "there was no connection to the broker"
        if self.is_blocked:
            return "the broker has a memory or disk alarm and took no messages"
        return "the broker did not confirm"

    def _has_backlog(self) -> bool:
        return self._publishing is not None and self._publishing.unsent_bytes > BACKLOG_BYTES

    def _takes_messages(self, channel: Channel) -> bool:
        return not self._lost.is_set() and is_usable(channel) and not self.is_blocked

    async def _publish_channel(self, call: Call) -> Channel:
        """Waits for a connection that takes messages, so that under an alarm nothing is sent in vain."""
        await self.wait_open()
        call.join(self._calls)
        if self._trial.pending:
            self._trial.sent()
        async with self._channel_lock:
            connection, channel = self._publishing, self._channel
            if connection is None or self._lost.is_set():
                raise BusUnavailable(f"{call.what}: the connection was lost", unsent=call.unsent)
            if channel is None or not is_usable(channel):
                channel = self._channel = await open_channel(connection, confirms=True)
        await connection.ready()
        return channel

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
        arguments: dict[str, Any] = {"x-priority": priority} if priority else {}
        if offset is not None:
            arguments["x-stream-offset"] = offset
        with Call(f"consume from {queue}") as call:
            channel = await self._open_channel(call)
            consumer = AmqpConsumer(queue, channel, self.stats, on_delivery, on_lost, self._consumers.discard)
            self._consumers.add(consumer)
            try:
                await consumer.start(prefetch, arguments)
            except BaseException:
                with anyio.CancelScope(shield=True):
                    await consumer.close()
                raise
            return consumer

    async def _open_channel(self, call: Call) -> Channel:
        """On the connection that consumes: one for each use, because an error closes it."""
        if self._consuming is None or self._lost.is_set():
            raise BusUnavailable(f"{call.what}: not connected")
        call.join(self._calls)
        return await open_channel(self._consuming, confirms=False)

    async def _with_channel(self, what: str, use: Callable[[Channel], Any], timeout: float = ANSWER_TIMEOUT_S) -> Any:
        with Call(what, timeout) as call:
            channel = await self._open_channel(call)
            answer = await use(channel)
            await channel.close()
            return answer

    # -- queues

    async def inspect(self, queue: str) -> QueueInfo:
        answer = await self._with_channel(f"inspect {queue}", lambda c: c.queue_declare(queue, passive=True))
        return QueueInfo(queue, answer.message_count, answer.consumer_count)

    async def purge(self, queue: str) -> int:
        answer = await self._with_channel(f"purge {queue}", lambda c: c.queue_purge(queue))
        return answer.message_count

    async def delete(self, queue: str) -> None:
        await self._with_channel(f"delete {queue}", lambda c: c.queue_delete(queue))

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

    async def open_exclusive(
        self, name: str, bindings: tuple[tuple[str, str], ...], *, max_length: int | None = None
    ) -> str:
        arguments: dict[str, Any] = {}
        if max_length is not None:
            arguments = {"x-max-length": max_length, "x-overflow": "drop-head"}

        async def make(channel: Channel) -> str:
            answer = await channel.queue_declare(name, exclusive=True, durable=False, arguments=arguments)
            for exchange, key in bindings:
                await channel.queue_bind(answer.queue or name, exchange, key)
            return answer.queue or name

        return await self._with_channel(f"open the exclusive queue {name}", make)
