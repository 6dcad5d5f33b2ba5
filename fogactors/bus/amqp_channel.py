"""A consumer on a channel of its own, and what it delivers.

A channel that the broker closed, or whose consumer it cancelled, is thrown away: on 4.3 a late ack on it settles
nothing and revives a ghost consumer whose deliveries nobody gets.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

from aiormq import exceptions as amqp
from aiormq.abc import ChannelFrame, DeliveredMessage
from aiormq.channel import Channel
from pamqp.commands import Basic

from fogactors.bus.amqp_acks import Acks
from fogactors.bus.amqp_connection import is_usable, on_closed
from fogactors.bus.amqp_errors import Call
from fogactors.bus.base import BusStats, Death, DeliveryHandler, LostHandler
from fogactors.errors import BusError, BusUnavailable
from fogactors.wire.topology import is_waiting_room

__all__ = ["AmqpConsumer", "AmqpDelivery"]

CLOSE_TIMEOUT_S = 3.0


class AmqpConsumer:
    """One subscription."""

    def __init__(
        self,
        queue: str,
        channel: Channel,
        stats: BusStats,
        on_delivery: DeliveryHandler,
        on_lost: LostHandler | None,
        forget: Callable[[AmqpConsumer], None],
    ) -> None:
        self.queue = queue
        self.channel = channel
        self.stats = stats
        self.usable = True
        """Whether a settle on this channel means anything."""
        self._on_delivery = on_delivery
        self._on_lost = on_lost
        self._forget = forget
        self._tag = ""
        self._taking = True
        self._acks = Acks()
        self._loop = asyncio.get_running_loop()

    async def start(self, prefetch: int, arguments: dict[str, Any]) -> None:
        on_lost, self._on_lost = self._on_lost, None
        self.channel.on_consumer_cancel_callbacks.add(lambda _: self.lose("the broker cancelled the consumer"))
        on_closed(self.channel, lambda why: self.lose(f"the channel was closed: {why}"))
        await self.channel.basic_qos(prefetch_count=prefetch)
        answer = await self.channel.basic_consume(self.queue, self._deliver, arguments=arguments)
        self._tag = answer.consumer_tag or ""
        if not self.usable:  # lost as soon as it stood: the caller is told by an error, not by `on_lost`
            raise BusUnavailable(f"consume from {self.queue}: lost at once")
        self._on_lost = on_lost

    async def cancel(self) -> None:
        if self._taking:
            self._on_lost = None
            try:
                if self.usable:
                    with Call(f"cancel the consumer of {self.queue}", CLOSE_TIMEOUT_S):
                        await self.channel.basic_cancel(self._tag)
            finally:
                # Not before the broker's answer: what is on its way would stay unsettled, and the broker would charge
                # it a delivery when the channel is closed. What was sent before the answer is here before it.
                self._taking = False

    async def close(self) -> None:
        self.detach()
        self._forget(self)
        with suppress(BusError), Call(f"close the channel of {self.queue}", CLOSE_TIMEOUT_S):
            await self.channel.close()

    def detach(self) -> None:
        """Deliver nothing more, settle nothing more, tell nobody."""
        self._tell_acks()
        self.usable = self._taking = False
        self._on_lost = None

    def lose(self, reason: str) -> None:
        """The broker, or the connection, has taken the subscription away."""
        self.usable = self._taking = False
        self._forget(self)
        on_lost, self._on_lost = self._on_lost, None
        if on_lost is not None:
            on_lost(reason)

    def ack(self, tag: int) -> None:
        """Told at the end of this turn of the loop, with all others: a frame for each would cost the client a third
        of its time, and the broker a command in the queue's log."""
        if not self._acks:
            self._loop.call_soon(self._tell_acks)
        self._acks.add(tag)

    async def reject(self, tag: int, *, requeue: bool) -> None:
        self._acks.settled(tag)
        await self.channel.basic_reject(tag, requeue=requeue, wait=False)

    def _tell_acks(self) -> None:
        if self._acks and self.usable and is_usable(self.channel):
            frames = [Basic.Ack(tag, multiple) for tag, multiple in self._acks.take()]
            frame = ChannelFrame.marshall(self.channel.number, frames)  # pyright: ignore[reportUnknownMemberType]
            self.channel.write_queue.put_nowait(frame)  # pyright: ignore[reportUnknownMemberType]

    async def _deliver(self, message: DeliveredMessage) -> None:
        if self._taking:
            self.stats.delivered += 1
            self._on_delivery(AmqpDelivery(message, self))


class AmqpDelivery:
    """One delivery. Headers are looked at only when asked for: on the hot path there are none."""

    __slots__ = ("_consumer", "_message", "_settled")

    def __init__(self, message: DeliveredMessage, consumer: AmqpConsumer) -> None:
        self._message = message
        self._consumer = consumer
        self._settled = False

    @property
    def body(self) -> bytes:
        return self._message.body

    @property
    def queue(self) -> str:
        return self._consumer.queue

    @property
    def exchange(self) -> str:
        return self._message.exchange or ""

    @property
    def routing_key(self) -> str:
        return self._message.routing_key or ""

    @property
    def type(self) -> str:
        return self._message.header.properties.message_type or ""

    @property
    def message_id(self) -> str:
        return self._message.header.properties.message_id or ""

    @property
    def content_type(self) -> str:
        return self._message.header.properties.content_type or ""

    @property
    def correlation_id(self) -> str | None:
        return self._message.header.properties.correlation_id

    @property
    def reply_to(self) -> str | None:
        return self._message.header.properties.reply_to

    @property
    def priority(self) -> int | None:
        return self._message.header.properties.priority

    @property
    def redelivered(self) -> bool:
        return bool(self._message.redelivered)

    @property
    def delivery_count(self) -> int | None:
        count = self._headers.get("x-delivery-count")
        if isinstance(count, int):
            return count
        # Absent on a fresh delivery of every version, and on 4.3 after a return that it does not count.
        return None if self.redelivered else 0

    @property
    def death(self) -> Death | None:
        deaths = self._headers.get("x-death")
        if not isinstance(deaths, list):
            return None
        history = cast("list[dict[str, Any]]", deaths)
        last = next((each for each in history if not is_waiting_room(each.get("queue", ""))), None)
        if last is None:
            return None
        return Death(queue=last.get("queue", ""), reason=last.get("reason", "rejected"), count=last.get("count", 1))

    @property
    def offset(self) -> int | None:
        offset = self._headers.get("x-stream-offset")
        return offset if isinstance(offset, int) else None

    async def ack(self) -> None:
        if self._take():
            self._consumer.ack(self._tag)
            self._consumer.stats.settled += 1

    async def reject(self) -> None:
        await self._reject(requeue=False)

    async def requeue(self) -> None:
        await self._reject(requeue=True)

    async def _reject(self, *, requeue: bool) -> None:
        if self._take():
            try:
                await self._consumer.reject(self._tag, requeue=requeue)
            except (amqp.AMQPError, OSError, RuntimeError):
                self._consumer.stats.stale_settles += 1
                return
            self._consumer.stats.settled += 1

    @property
    def _headers(self) -> dict[str, Any]:
        return cast("dict[str, Any]", self._message.header.properties.headers or {})

    @property
    def _tag(self) -> int:
        return cast("Basic.Deliver", self._message.delivery).delivery_tag or 0

    def _take(self) -> bool:
        """Whether it can be settled, which is once; counted when there is nothing to settle any more."""
        consumer = self._consumer
        if self._settled or not consumer.usable or not is_usable(consumer.channel):
            consumer.stats.stale_settles += 1
            return False
        self._settled = True
        return True
