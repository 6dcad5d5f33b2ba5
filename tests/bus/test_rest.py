"""When the embedded broker is at rest, and a test's clock may skip the wait that is next."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio
import anyio.lowlevel
import pytest

from fogactors.bus import MemoryBroker, MemoryBus, Message
from fogactors.bus.embedded.rest import REST_S
from fogactors.testing.skew import SkewedClock
from fogactors.wire import Binding, Exchange, Policy, Queue, Topology

from .support import Inbox, bodies, eventually

pytestmark = pytest.mark.asyncio

HOUR_S = 3600.0
SILENCE_S = 30 * REST_S
"""How long nothing must come before we believe that nothing comes."""

DELAY = Policy(
    overflow="reject-publish",
    message_ttl_ms=int(HOUR_S * 1000),
    dead_letter_exchange="",
    dead_letter_strategy="at-least-once",
)
TOPOLOGY = Topology(
    exchanges=(Exchange("x", "direct"), Exchange("delay", "fanout"), Exchange("log", "fanout")),
    queues=(Queue("q"), Queue("later"), Queue("delay", policy=DELAY), Queue("log", "stream")),
    bindings=(Binding("x", "k", "q"), Binding("delay", "", "delay"), Binding("log", "", "log")),
)


@dataclass
class World:
    broker: MemoryBroker
    bus: MemoryBus
    skips: list[float]
    later: Inbox
    """What comes out of the delay."""

    async def delay(self) -> None:
        await self.bus.publish("delay", "later", Message(b"delayed"))

    async def stays_where_it_is(self) -> None:
        await anyio.sleep(SILENCE_S)
        assert (self.skips, self.later.deliveries) == ([], [])

    async def comes(self) -> None:
        delivery = await self.later.one()
        assert (delivery.body, len(self.skips)) == (b"delayed", 1)
        assert HOUR_S - 5 < self.skips[0] <= HOUR_S
        await delivery.ack()


@asynccontextmanager
async def world() -> AsyncGenerator[World]:
    clock, skips = SkewedClock(), []

    def skip(seconds: float) -> None:
        skips.append(seconds)
        clock.advance(seconds)

    async with MemoryBroker(clock=clock.monotonic, skip=skip) as broker:
        broker.declare(TOPOLOGY)
        bus = MemoryBus(broker, name="mine")
        await bus.open()
        later = Inbox()
        await bus.consume("later", later, prefetch=10)
        yield World(broker, bus, skips, later)


async def test_a_delay_is_over_at_once_and_by_the_clock_it_took_its_time():
    async with world() as it:
        await it.delay()
        await it.comes()


async def test_delays_end_one_after_the_other():
    async with world() as it:
        await it.delay()
        await it.comes()
        it.skips.clear()
        await it.delay()
        await it.comes()


async def test_what_is_in_hand_holds_the_clock():
    async with world() as it:
        inbox = Inbox()
        await it.bus.consume("q", inbox, prefetch=1)
        await it.bus.publish("x", "k", Message(b"work"))
        await it.delay()
        await it.stays_where_it_is()
        await (await inbox.one()).ack()
        await it.comes()


async def test_what_has_lost_its_consumer_with_the_connection_waits_for_it_to_be_back():
    async with world() as it:
        worker = MemoryBus(it.broker, name="worker")
        await worker.open()
        await worker.consume("q", Inbox(), prefetch=1)
        await it.bus.publish("x", "k", Message(b"work"))
        it.broker.kill_connection("worker")
        await it.delay()
        await it.stays_where_it_is()
        await worker.open()
        inbox = Inbox()
        await worker.consume("q", inbox, prefetch=1)
        await (await inbox.one()).ack()
        await it.comes()
        # It leaves in good order this time, so nobody waits for it.
        await worker.close()
        await it.bus.publish("x", "k", Message(b"nobody's"))
        it.skips.clear()
        await it.delay()
        await it.comes()


async def test_while_anything_moves_it_is_not_at_rest():
    async with world() as it:
        await it.delay()
        for _ in range(100):
            await it.bus.publish("x", "k", Message(b"nobody's"))
            await anyio.lowlevel.checkpoint()
        assert it.skips == []
        await it.comes()


async def test_what_nobody_consumes_holds_nothing():
    async with world() as it:
        consumer = await it.bus.consume("q", Inbox(), prefetch=1)
        await consumer.close()
        await it.bus.publish("x", "k", Message(b"nobody's"))
        await it.bus.publish("log", "k", Message(b"to be read, not to be worked off"))
        await it.bus.consume("log", Inbox(), prefetch=1, offset="first")
        await it.delay()
        await it.comes()


async def test_a_publish_that_waits_for_its_connection_holds_the_clock():
    async with world() as it:
        other = MemoryBus(it.broker)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(other.publish, "x", "k", Message(b"waits"))
            await anyio.lowlevel.checkpoint()
            await it.delay()
            await it.stays_where_it_is()
            await other.open()
        await it.comes()


async def test_a_publish_that_waits_for_its_confirm_holds_the_clock():
    async with world() as it:
        it.broker.faults.confirm_delay_s = 2 * SILENCE_S
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(it.delay)
            await it.stays_where_it_is()
        await it.comes()


async def test_a_message_that_may_only_wait_so_long_for_a_consumer_is_no_delay():
    async with world() as it:
        await it.bus.publish("x", "k", Message(b"short-lived", expiration=HOUR_S))
        await it.stays_where_it_is()
        inbox = Inbox()
        await it.bus.consume("q", inbox, prefetch=1)
        assert bodies(inbox.deliveries) == [b"short-lived"]


async def test_a_clock_that_was_moved_by_hand():
    clock = SkewedClock()
    async with MemoryBroker(clock=clock.monotonic) as broker:
        broker.declare(TOPOLOGY)
        bus = MemoryBus(broker)
        await bus.open()
        await bus.publish("delay", "later", Message(b"delayed"))
        clock.advance(HOUR_S - 1)
        broker.clock_moved()
        await anyio.sleep(SILENCE_S)
        assert broker.depths()["delay"].ready == 1
        clock.advance(1)
        broker.clock_moved()
        await eventually(lambda: broker.depths()["later"].ready == 1)


async def test_whoever_waits_for_a_change_is_woken_by_each_kind():
    async with world() as it:
        inbox = Inbox()

        async def settle() -> None:
            await (await inbox.one()).ack()

        changes = {
            "publish": lambda: it.bus.publish("x", "k", Message(b"1")),
            "consume": lambda: it.bus.consume("q", inbox, prefetch=1),
            "settle": settle,
        }
        for what, change in changes.items():
            stirred = it.broker.stirred()
            await change()
            assert stirred.is_set(), what


async def test_a_stream_can_be_read_by_whoever_runs_the_broker_and_a_queue_cannot():
    async with world() as it:
        for body in (b"1", b"2"):
            await it.bus.publish("log", "", Message(body))
        assert [each.body for each in it.broker.read("log")] == [b"1", b"2"]
        with pytest.raises(ValueError, match="'q' is a queue, not a stream"):
            it.broker.read("q")
