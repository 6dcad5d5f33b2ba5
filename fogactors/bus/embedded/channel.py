"""A client's side inside the embedded broker: its connection, its subscriptions and the deliveries it
holds."""

from __future__ import annotations

from enum import Enum
from math import inf
from typing import Protocol

import anyio

from fogactors.bus.base import BusStats, Death, DeliveryHandler, LostHandler, Message
from fogactors.wire.topology import is_waiting_room

__all__ = ["Connection", "MemoryDelivery", "Outcome", "Source", "Stored", "Subscription"]


class Outcome(Enum):
    """How a delivery is settled."""

    ACK = "ack"
    REJECT = "reject"
    REQUEUE = "requeue"


class Stored:
    """One message in one queue or stream. `seq` is its place of arrival there (a stream's offset), `returns`
    how often a consumer gave it back, `deaths` its dead-letter history, the last one first."""

    __slots__ = ("deaths", "exchange", "expires", "key", "message", "message_id", "returns", "seq")

    def __init__(
        self, message: Message, message_id: str, exchange: str, key: str, deaths: tuple[Death, ...] = ()
    ) -> None:
        self.message = message
        self.message_id = message_id
        self.exchange = exchange
        self.key = key
        self.deaths = deaths
        self.seq = 0
        self.expires = inf
        self.returns = 0


class Source(Protocol):
    """What a subscription takes from: a queue or a stream."""

    name: str
    is_stream: bool
    counts_returns: bool

    def detach(self, subscription: Subscription) -> None: ...
    def settled(self, subscription: Subscription, stored: Stored, outcome: Outcome) -> None: ...
    def returned(self, stored: list[Stored]) -> None: ...


class MemoryDelivery:
    """A `fogactors.bus.base.Delivery`. The fields are copied, not looked up: most are read once, and a plain
    attribute is the cheapest way."""

    __slots__ = (
        "_subscription",
        "_tag",
        "body",
        "content_type",
        "correlation_id",
        "death",
        "delivery_count",
        "exchange",
        "message_id",
        "offset",
        "priority",
        "queue",
        "redelivered",
        "reply_to",
        "routing_key",
        "type",
    )

    def __init__(self, subscription: Subscription, tag: int, stored: Stored) -> None:
        message, source = stored.message, subscription.source
        self._subscription = subscription
        self._tag = tag
        self.body: bytes = message.body
        self.queue: str = source.name
        self.exchange: str = stored.exchange
        self.routing_key: str = stored.key
        self.type: str = message.type
        self.message_id: str = stored.message_id
        self.content_type: str = message.content_type
        self.correlation_id: str | None = message.correlation_id
        self.reply_to: str | None = message.reply_to
        self.priority: int | None = message.priority
        self.redelivered: bool = stored.returns > 0
        self.delivery_count: int | None = stored.returns if source.counts_returns or not stored.returns else None
        self.death: Death | None = None
        if stored.deaths:
            self.death = next((each for each in stored.deaths if not is_waiting_room(each.queue)), None)
        self.offset: int | None = stored.seq if source.is_stream else None

    def __repr__(self) -> str:
        # Not the body: payloads are never logged.
        return f"<delivery {self.message_id} of {self.queue}, {len(self.body)} bytes>"

    async def ack(self) -> None:
        self._subscription.settle(self._tag, Outcome.ACK)

    async def reject(self) -> None:
        self._subscription.settle(self._tag, Outcome.REJECT)

    async def requeue(self) -> None:
        self._subscription.settle(self._tag, Outcome.REQUEUE)


class Subscription:
    """A consumer on a channel of its own (a `fogactors.bus.base.Consumer`)."""

    __slots__ = (
        "_on_delivery",
        "_on_lost",
        "_tag",
        "_unsettled",
        "active",
        "connection",
        "in_ring",
        "next_offset",
        "prefetch",
        "priority",
        "source",
    )

    def __init__(
        self,
        connection: Connection,
        source: Source,
        on_delivery: DeliveryHandler,
        *,
        prefetch: int,
        priority: int,
        on_lost: LostHandler | None,
    ) -> None:
        self.connection = connection
        self.source = source
        self.prefetch = prefetch
        self.priority = priority
        self.active = True
        """Whether it takes deliveries."""
        self.in_ring = False
        """Whether it waits in its queue's ring for a turn."""
        self.next_offset = 0
        """The next position of a stream."""
        self._on_delivery = on_delivery
        self._on_lost = on_lost
        self._unsettled: dict[int, Stored] = {}
        self._tag = 0
        connection.subscriptions[self] = None

    @property
    def queue(self) -> str:
        return self.source.name

    @property
    def has_room(self) -> bool:
        return self.active and len(self._unsettled) < self.prefetch

    @property
    def holds(self) -> bool:
        """Whether something that it was given is not settled."""
        return bool(self._unsettled)

    def assign(self, stored: Stored) -> MemoryDelivery:
        """Count a message against the prefetch; the queue hands the delivery over when its own books are in
        order."""
        self._tag += 1
        self._unsettled[self._tag] = stored
        self.connection.stats.delivered += 1
        return MemoryDelivery(self, self._tag, stored)

    def hand_over(self, delivery: MemoryDelivery) -> None:
        self._on_delivery(delivery)

    def settle(self, tag: int, outcome: Outcome) -> None:
        stored = self._unsettled.pop(tag, None)
        if stored is None:
            self.connection.stats.stale_settles += 1
            return
        self.connection.stats.settled += 1
        self.source.settled(self, stored, outcome)

    async def cancel(self) -> None:
        self.stop()

    async def close(self) -> None:
        self.stop()
        self.connection.subscriptions.pop(self, None)
        self.give_back()

    def stop(self) -> bool:
        """Take no more. Returns whether it did until now."""
        was, self.active = self.active, False
        if was:
            self.source.detach(self)
        return was

    def give_back(self) -> None:
        """Return what is not settled, in the order in which it was delivered."""
        stored, self._unsettled = list(self._unsettled.values()), {}
        if stored:
            self.source.returned(stored)

    def tell_lost(self, reason: str) -> None:
        if self._on_lost is not None:
            self._on_lost(reason)

    def source_deleted(self, reason: str) -> None:
        """The queue is gone, and what was not settled with it."""
        was, self.active = self.active, False
        self._unsettled = {}
        self.connection.subscriptions.pop(self, None)
        if was:
            self.tell_lost(reason)


class Connection:
    """One client's connection. Everything that it holds goes back when it ends, whatever ends it."""

    __slots__ = ("ended", "exclusive", "lost", "name", "reason", "stats", "subscriptions")

    def __init__(self, name: str, stats: BusStats) -> None:
        self.name = name
        self.stats = stats
        self.subscriptions: dict[Subscription, None] = {}
        self.exclusive: list[str] = []
        """Queues that go with it."""
        self.reason: str | None = None
        """Why it ended; `None` while it is open."""
        self.lost = False
        """Whether it ended against its client's will."""
        self.ended = anyio.Event()

    def end(self, reason: str, *, by_client: bool) -> None:
        """End it. All consumers stop before the first message goes back, so that none of them gets it
        again."""
        self.reason = reason
        self.lost = not by_client
        subscriptions, self.subscriptions = list(self.subscriptions), {}
        stopped = [each for each in subscriptions if each.stop()]
        for each in subscriptions:
            each.give_back()
        self.ended.set()
        if not by_client:
            for each in stopped:
                each.tell_lost(reason)
