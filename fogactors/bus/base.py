"""What the rest of the system may ask of a broker. Two implementations: `memory.py` and, on RabbitMQ, `amqp.py`.

Narrow on purpose, so that a faster data plane can take the place of the one we have. Nothing here is about tasks.

* **Publish** returns when the broker has the message, or raises. There is nothing in between.
* **Consume** calls a plain function for each delivery. It must not block and must not raise; it puts the delivery
  into a mailbox that is at least as long as the prefetch.
* **Settle** once. Settling on a channel that is gone is counted and dropped, never an error: the broker delivers again.
* **A lost connection** ends `wait_lost()`. Whoever owns the bus (a link actor) lets itself be restarted, and with it
  everything that consumes. Nothing in here reconnects by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from fogactors.wire.topology import Topology

__all__ = [
    "Bus",
    "BusStats",
    "Consumer",
    "Death",
    "Delivery",
    "DeliveryHandler",
    "LostHandler",
    "Message",
    "QueueInfo",
]

MAX_BODY = 1024 * 1024
"""Bytes of a body that `publish` accepts by default (1 MiB)."""


@dataclass(slots=True, frozen=True)
class Message:
    """A message to publish: a body and the few AMQP properties that are used.

    `message_id` is unique per publish (the client library matches returns by it); empty means: the bus makes one up.
    `expiration`: seconds. `priority`: 0 to 31, `None` is the broker's default. All messages are persistent unless
    `persistent` is false.
    """

    body: bytes
    type: str = ""
    message_id: str = ""
    content_type: str = "application/json"
    correlation_id: str | None = None
    reply_to: str | None = None
    priority: int | None = None
    expiration: float | None = None
    persistent: bool = True


@dataclass(slots=True, frozen=True)
class Death:
    """Why the broker dead-lettered a message: the last entry of its history, the waiting room that it may have passed
    afterwards left out."""

    queue: str
    reason: Literal["rejected", "expired", "maxlen", "delivery_limit"]
    count: int = 1


class Delivery(Protocol):
    """One message on its way to a consumer. Settle it once: `ack`, `reject` or `requeue`.

    `delivery_count` is how often it came back before (0: fresh, `None`: the broker did not say).
    """

    @property
    def body(self) -> bytes: ...
    @property
    def queue(self) -> str: ...
    @property
    def exchange(self) -> str: ...
    @property
    def routing_key(self) -> str: ...
    @property
    def type(self) -> str: ...
    @property
    def message_id(self) -> str: ...
    @property
    def content_type(self) -> str: ...
    @property
    def correlation_id(self) -> str | None: ...
    @property
    def reply_to(self) -> str | None: ...
    @property
    def priority(self) -> int | None: ...
    @property
    def redelivered(self) -> bool: ...
    @property
    def delivery_count(self) -> int | None: ...
    @property
    def death(self) -> Death | None: ...
    @property
    def offset(self) -> int | None:
        """Position in a stream; `None` on a queue."""
        ...

    async def ack(self) -> None:
        """Done with it. Does nothing but count when the channel is gone or it was settled before."""
        ...

    async def reject(self) -> None:
        """Give it up: to the queue's dead-letter exchange."""
        ...

    async def requeue(self) -> None:
        """Give it back at the cost of one delivery (`basic.reject(requeue=true)`: counted on every version)."""
        ...


DeliveryHandler = Callable[[Delivery], None]
LostHandler = Callable[[str], None]
"""Called once with a reason when the broker took the consumer away; not after our own `cancel` or `close`."""


class Consumer(Protocol):
    """A subscription on a channel of its own."""

    @property
    def queue(self) -> str: ...

    async def cancel(self) -> None:
        """Take no more deliveries. What was delivered is still ours to settle. When it returns no delivery follows."""
        ...

    async def close(self) -> None:
        """Close the channel: what is not settled goes back to the queue, at the cost of one delivery each."""
        ...


@dataclass(slots=True, frozen=True)
class QueueInfo:
    """`ready`: messages waiting (not those delivered and unsettled). `consumers`: how many are subscribed."""

    name: str
    ready: int
    consumers: int


@dataclass(slots=True)
class BusStats:
    """Counts since the bus was made; they survive reconnects."""

    published: int = 0
    delivered: int = 0
    settled: int = 0
    stale_settles: int = 0
    connections: int = 0


@runtime_checkable
class Bus(Protocol):
    """One client's way to the broker. All methods raise `BusUnavailable` when the connection is gone, at once unless
    they say that they wait."""

    @property
    def user(self) -> str:
        """As whom it logs in. A user may make queues only under its own name: `fogactors.wire.access.control_queue`."""
        ...

    @property
    def version(self) -> tuple[int, int]:
        """The broker's, as `(4, 3)`: of the one that it was connected to last. `(0, 0)` before the first time."""
        ...

    @property
    def is_open(self) -> bool: ...
    @property
    def is_blocked(self) -> bool:
        """Whether the broker has an alarm (memory, disk) and takes no messages at the moment. Publishing waits up to
        its deadline; consuming and settling go on. A broker tells a client of it on its first publish."""
        ...

    @property
    def stats(self) -> BusStats: ...

    async def open(self, timeout: float = 10.0) -> None:
        """Connect. Raises `BusUnavailable`, or `AccessRefused` when it is no use to try again."""
        ...

    async def wait_open(self) -> None:
        """Wait until connected; the caller bounds the wait."""
        ...

    async def wait_lost(self) -> str:
        """Wait until the connection is gone, and say why."""
        ...

    async def close(self) -> None:
        """Disconnect. What was delivered and not settled goes back. Idempotent."""
        ...

    async def publish(
        self, exchange: str, key: str, message: Message, *, mandatory: bool = True, timeout: float = 10.0
    ) -> None:
        """Hand a message to the broker; returns when it has it (publisher confirm).

        `timeout`: seconds in all, including the wait for a connection. Raises `BusUnavailable` (it may still arrive,
        and more than once where another's mistake closed the channel under it: the ids are the publisher's),
        `Unroutable` (mandatory, and no queue takes it), `QueueFull` (refused), `MessageTooLarge`. The error's `unsent`
        is the message.
        """
        ...

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
        """Subscribe. `prefetch`: how many unsettled deliveries at most (≥ 1). `priority`: consumers with a higher one
        are served first while they have room. `offset`: where to start, on a stream only. Raises `QueueMissing`,
        `AccessRefused`.
        """
        ...

    async def inspect(self, queue: str) -> QueueInfo:
        """Depth and consumers of a queue (a passive declare). Raises `QueueMissing`."""
        ...

    async def purge(self, queue: str) -> int:
        """Throw away what waits in a queue; returns how many. Raises `QueueMissing`."""
        ...

    async def delete(self, queue: str) -> None:
        """Delete a queue with all that is in it; its consumers are told. Does nothing when there is none. Raises
        `AccessRefused`."""
        ...

    async def declare(self, topology: Topology) -> None:
        """Make the broker have this topology; what is there already is left as it is. Raises `TopologyMismatch`."""
        ...

    async def check(self, topology: Topology) -> list[str]:
        """What is missing, a line each; empty when all is there. Changes nothing."""
        ...

    async def open_exclusive(
        self, name: str, bindings: tuple[tuple[str, str], ...], *, max_length: int | None = None
    ) -> str:
        """A queue of this connection's own, bound to `(exchange, key)` pairs; it goes with the connection. Returns
        its name. `max_length`: messages; with one it drops its oldest. An argument and no policy: it lives no longer
        than its connection, so that there is nothing to tune."""
        ...
