"""What the tests of the bus share: an inbox, waiting, and small topologies."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from uuid import uuid4

import anyio
import trio
from trio.testing import MockClock

from fogactors.bus import Bus, Delivery, MemoryBroker, MemoryBus, Message
from fogactors.wire import Binding, Exchange, Policy, Queue, Topology

DEADLINE_S = 10.0
"""How long a test waits for what must come. Never reached when the code is right."""


@dataclass
class Inbox:
    """A delivery handler that collects, and can be waited for."""

    deliveries: list[Delivery] = field(default_factory=list)
    came: anyio.Event = field(default_factory=anyio.Event)

    def __call__(self, delivery: Delivery) -> None:
        self.deliveries.append(delivery)
        self.came.set()

    async def take(self, count: int = 1) -> list[Delivery]:
        """The next `count` deliveries; fails when they do not come."""
        with anyio.fail_after(DEADLINE_S):
            while len(self.deliveries) < count:
                self.came = anyio.Event()
                await self.came.wait()
        taken, self.deliveries = self.deliveries[:count], self.deliveries[count:]
        return taken

    async def one(self) -> Delivery:
        return (await self.take(1))[0]


class Names:
    """Names of one test's own, so that tests share a broker without meeting."""

    def __init__(self) -> None:
        self.prefix = f"t{uuid4().hex[:8]}"

    def __call__(self, name: str) -> str:
        return f"{self.prefix}.{name}"


def work(n: Names, policy: Policy | None = None, **more: Policy) -> Topology:
    """A direct exchange `x` with a queue `q` behind the key `k`, and further queues behind their names as
    keys."""
    queues = {"q": policy or Policy(), **more}
    return Topology(
        exchanges=(Exchange(n("x"), "direct"),),
        queues=tuple(Queue(n(name), policy=each) for name, each in queues.items()),
        bindings=tuple(Binding(n("x"), "k" if name == "q" else name, n(name)) for name in queues),
    )


async def eventually(condition: Callable[[], bool | Awaitable[bool]]) -> None:
    """Wait until it is true, asked again and again; fails when it stays false."""
    with anyio.fail_after(DEADLINE_S):
        while True:
            found = condition()
            if found if isinstance(found, bool) else await found:
                return
            await anyio.sleep(0.01)


async def send(bus: Bus, n: Names, *bodies: bytes, key: str = "k") -> None:
    for body in bodies:
        await bus.publish(n("x"), key, Message(body))


def bodies(deliveries) -> list[bytes]:
    return [each.body for each in deliveries]


def limited(n: Names, **policy) -> Policy:
    """At-least-once dead-lettering to the queue `dead`."""
    return Policy(
        overflow="reject-publish",
        dead_letter_exchange=n("x"),
        dead_letter_routing_key="dead",
        dead_letter_strategy="at-least-once",
        **policy,
    )


def ladder(n: Names, ttl_ms: int) -> Topology:
    policy = Policy(
        overflow="reject-publish",
        message_ttl_ms=ttl_ms,
        dead_letter_exchange="",
        dead_letter_strategy="at-least-once",
    )
    return Topology(
        (Exchange(n("retry"), "fanout"),),
        (Queue(n("retry"), policy=policy),),
        (Binding(n("retry"), "", n("retry")),),
    )


# -- the embedded broker alone


def queue(policy: Policy | None = None, kind="quorum") -> Topology:
    return Topology(
        (Exchange("x", "direct"),),
        (Queue("q", kind, policy or Policy()),),
        (Binding("x", "k", "q"),),
    )


@asynccontextmanager
async def client(topology: Topology, **options):
    async with MemoryBroker(**options) as broker:
        broker.declare(topology)
        bus = MemoryBus(broker)
        await bus.open()
        yield broker, bus


def virtually(main) -> None:
    """Run on trio with a clock that jumps to the next deadline whenever everybody waits."""
    trio.run(main, clock=MockClock(autojump_threshold=0))
