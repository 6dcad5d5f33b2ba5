"""The contract's other half: what happens when connections, consumers and patience end.

As in `test_contract.py`, only what is true of the embedded broker and of RabbitMQ 4.0 to 4.3 alike.
"""

from __future__ import annotations

import anyio
import pytest

from fogactors.bus import Death, Message
from fogactors.errors import BusUnavailable, QueueFull, QueueMissing, Unroutable
from fogactors.wire import Binding, Exchange, Policy, Queue, Topology

from .conftest import OpenWorld
from .support import DEADLINE_S, Inbox, Names, bodies, eventually, ladder, limited, send, work

pytestmark = pytest.mark.asyncio


# -- losing things


async def test_a_lost_connection_gives_everything_back_in_order(open_world: OpenWorld, n: Names):
    async with open_world() as world:
        victim, heir, inbox, second = await world.client(), await world.client(), Inbox(), Inbox()
        await victim.declare(work(n))
        await send(heir, n, b"1", b"2", b"3")
        await victim.consume(n("q"), inbox, prefetch=2)
        held, _ = await inbox.take(2)
        await world.kill(victim)
        with anyio.fail_after(DEADLINE_S):
            assert await victim.wait_lost()
        assert not victim.is_open
        await heir.consume(n("q"), second, prefetch=10)
        got = await second.take(3)
        assert bodies(got) == [b"1", b"2", b"3"]
        assert [(each.redelivered, each.delivery_count) for each in got] == [(True, 1), (True, 1), (False, 0)]
        await held.ack()
        assert victim.stats.stale_settles == 1


async def test_on_lost_is_called_once_when_the_connection_goes(open_world: OpenWorld, n: Names):
    async with open_world() as world:
        bus, reasons = await world.client(), list[str]()
        await bus.declare(work(n))
        await bus.consume(n("q"), Inbox(), prefetch=1, on_lost=reasons.append)
        await world.kill(bus)
        with anyio.fail_after(DEADLINE_S):
            await bus.wait_lost()
        await eventually(lambda: len(reasons) == 1)
        await bus.close()
        assert len(reasons) == 1


async def test_on_lost_is_called_when_the_queue_is_deleted(open_world: OpenWorld, n: Names):
    async with open_world() as world:
        bus, reasons = await world.client(), list[str]()
        await bus.declare(work(n))
        await bus.consume(n("q"), Inbox(), prefetch=1, on_lost=reasons.append)
        await world.delete(n("q"))
        await eventually(lambda: len(reasons) == 1)
        assert bus.is_open
        with pytest.raises(QueueMissing):
            await bus.inspect(n("q"))


async def test_on_lost_is_not_called_for_our_own_doing(open_world: OpenWorld, n: Names):
    async with open_world() as world:
        bus, reasons = await world.client(), list[str]()
        await bus.declare(work(n))
        for _ in range(2):
            consumer = await bus.consume(n("q"), Inbox(), prefetch=1, on_lost=reasons.append)
            await consumer.cancel()
            await consumer.close()
        await bus.consume(n("q"), Inbox(), prefetch=1, on_lost=reasons.append)
        await bus.close()
        await bus.close()
        assert reasons == []


async def test_a_closed_bus_refuses_at_once_and_can_be_opened_again(open_world: OpenWorld, n: Names):
    async with open_world() as world:
        bus = await world.client()
        await bus.declare(work(n))
        await bus.close()
        with anyio.fail_after(1):
            for refused in (bus.inspect(n("q")), bus.purge(n("q")), bus.consume(n("q"), Inbox(), prefetch=1)):
                with pytest.raises(BusUnavailable):
                    await refused
        await bus.open()
        await send(bus, n, b"1")
        assert (bus.stats.connections, bus.stats.published) == (2, 1)


async def test_a_publish_without_a_connection_raises_in_time_with_the_message(open_world: OpenWorld, n: Names):
    async with open_world() as world:
        bus = await world.client()
        await bus.close()
        message = Message(b"kept")
        with anyio.fail_after(5):
            with pytest.raises(BusUnavailable) as caught:
                await bus.publish(n("x"), "k", message, timeout=0.05)
        assert caught.value.unsent is message


async def test_a_publish_waits_for_the_connection(open_world: OpenWorld, n: Names):
    async with open_world() as world:
        bus, other = await world.client(), await world.client()
        await bus.declare(work(n))
        await bus.close()
        with anyio.fail_after(DEADLINE_S):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(send, bus, n, b"patient")
                await anyio.wait_all_tasks_blocked()
                await bus.open()
        assert (await other.inspect(n("q"))).ready == 1


# -- limits, dead letters, delays


async def test_a_rejected_message_is_dead_lettered(open_world: OpenWorld, n: Names):
    async with open_world() as world:
        bus, inbox, dead = await world.client(), Inbox(), Inbox()
        await bus.declare(work(n, limited(n), dead=Policy()))
        await bus.consume(n("q"), inbox, prefetch=1)
        await bus.consume(n("dead"), dead, prefetch=1)
        await bus.publish(n("x"), "k", Message(b"1", "task", "id-1", correlation_id="c"))
        await (await inbox.one()).reject()
        letter = await dead.one()
        assert (letter.body, letter.type, letter.message_id, letter.correlation_id) == (b"1", "task", "id-1", "c")
        assert (letter.death, letter.routing_key) == (Death(n("q"), "rejected"), "dead")


async def test_the_delivery_limit_counts_returns(open_world: OpenWorld, n: Names):
    """Limit 3: four deliveries, then the dead-letter exchange."""
    async with open_world() as world:
        bus, inbox, dead = await world.client(), Inbox(), Inbox()
        await bus.declare(work(n, limited(n, delivery_limit=3), dead=Policy()))
        await bus.consume(n("dead"), dead, prefetch=1)
        await send(bus, n, b"poison")
        consumer = await bus.consume(n("q"), inbox, prefetch=1)
        counts = []
        for turn in range(4):
            delivery = await inbox.one()
            counts.append(delivery.delivery_count)
            if turn % 2:
                await delivery.requeue()
            else:
                await consumer.close()
                consumer = await bus.consume(n("q"), inbox, prefetch=1)
        assert counts == [0, 1, 2, 3]
        assert (await dead.one()).death == Death(n("q"), "delivery_limit")
        assert not inbox.deliveries


async def test_a_consumer_that_dies_too_often_with_a_message_loses_it_to_the_dead_letters(
    open_world: OpenWorld, n: Names
):
    async with open_world() as world:
        bus, dead = await world.client(), Inbox()
        await bus.declare(work(n, limited(n, delivery_limit=0), dead=Policy()))
        await bus.consume(n("dead"), dead, prefetch=1)
        victim, inbox = await world.client(), Inbox()
        await victim.consume(n("q"), inbox, prefetch=1)
        await send(bus, n, b"poison")
        await inbox.one()
        await world.kill(victim)
        assert (await dead.one()).death == Death(n("q"), "delivery_limit")


async def test_a_full_queue_refuses_with_the_message(open_world: OpenWorld, n: Names):
    async with open_world() as world:
        bus = await world.client()
        await bus.declare(work(n, Policy(max_length=5, overflow="reject-publish")))
        with pytest.raises(QueueFull) as caught:
            await send(bus, n, *(b"%d" % each for each in range(50)))
        accepted = bus.stats.published
        assert caught.value.unsent.body == b"%d" % accepted
        assert 5 <= accepted < 10
        assert (await bus.inspect(n("q"))).ready == accepted
        await bus.purge(n("q"))

        async def takes_again() -> bool:
            try:
                await send(bus, n, b"again")
            except QueueFull:
                return False
            return True

        await eventually(takes_again)


async def test_drop_head_keeps_the_newest(open_world: OpenWorld, n: Names):
    async with open_world() as world:
        bus, inbox = await world.client(), Inbox()
        await bus.declare(work(n, Policy(max_length=3, overflow="drop-head")))
        await send(bus, n, *(b"%d" % each for each in range(10)))
        assert (await bus.inspect(n("q"))).ready == 3
        await bus.consume(n("q"), inbox, prefetch=10)
        assert bodies(await inbox.take(3)) == [b"7", b"8", b"9"]


async def test_the_retry_ladder_returns_to_the_queue_that_the_key_names(open_world: OpenWorld, n: Names):
    async with open_world() as world:
        bus, inbox = await world.client(), Inbox()
        await bus.declare(work(n) + ladder(n, 50))
        await bus.consume(n("q"), inbox, prefetch=1)
        for _ in range(3):  # a client's republish starts a fresh history: no cycle detection drops it
            sent = anyio.current_time()
            await bus.publish(n("retry"), n("q"), Message(b"later"))
            back = await inbox.one()
            assert anyio.current_time() - sent >= 0.045
            assert (back.body, back.death) == (b"later", Death(n("retry"), "expired"))
            assert (back.redelivered, back.delivery_count) == (False, 0)
            await back.ack()


async def test_a_message_expires_by_itself(open_world: OpenWorld, n: Names):
    async with open_world() as world:
        bus, dead = await world.client(), Inbox()
        await bus.declare(work(n, limited(n), dead=Policy()))
        await bus.consume(n("dead"), dead, prefetch=1)
        await bus.publish(n("x"), "k", Message(b"short", expiration=0.03))
        assert (await dead.one()).death == Death(n("q"), "expired")


async def test_dead_letters_for_a_full_queue_are_kept_and_tried_again(open_world: OpenWorld, n: Names):
    async with open_world() as world:
        bus, inbox, probe = await world.client(), Inbox(), Inbox()
        full = Policy(max_length=2, overflow="reject-publish")
        await bus.declare(work(n, full, probe=Policy()) + ladder(n, 10))
        with pytest.raises(QueueFull):
            await send(bus, n, *[b"first"] * 50)
        filled = bus.stats.published
        for each in range(5):
            await bus.publish(n("retry"), n("q"), Message(b"late-%d" % each))
        await bus.consume(n("probe"), probe, prefetch=1)
        await bus.publish(n("retry"), n("probe"), Message(b"all before me have expired"))
        await probe.one()
        assert (await bus.inspect(n("q"))).ready == filled
        await bus.consume(n("q"), inbox, prefetch=100)
        got = bodies(await inbox.take(filled + 5))
        assert sorted(got) == [b"first"] * filled + [b"late-%d" % each for each in range(5)]
        assert not inbox.deliveries


# -- streams, exclusive queues, declaring


async def test_a_stream_is_read_again_and_again(open_world: OpenWorld, n: Names):
    async with open_world() as world:
        bus, first, again, tail = await world.client(), Inbox(), Inbox(), Inbox()
        await bus.declare(
            Topology(
                (Exchange(n("x"), "fanout"),),
                (Queue(n("q"), "stream", Policy(max_age_s=3600)),),
                (Binding(n("x"), "", n("q")),),
            )
        )
        await send(bus, n, b"0", b"1", b"2")
        await bus.consume(n("q"), first, prefetch=2, offset="first")
        one, two = await first.take(2)
        assert [(each.offset, each.body) for each in (one, two)] == [(0, b"0"), (1, b"1")]
        assert not first.deliveries
        await one.ack()
        assert (await first.one()).offset == 2
        await bus.consume(n("q"), again, prefetch=10, offset=1)
        assert bodies(await again.take(2)) == [b"1", b"2"]
        await bus.consume(n("q"), tail, prefetch=10, offset="next")
        await send(bus, n, b"3")
        assert (await tail.one()).body == b"3"


async def test_an_exclusive_queue_is_bound_and_goes_with_its_connection(open_world: OpenWorld, n: Names):
    async with open_world() as world:
        owner, other, inbox = await world.client(), await world.client(), Inbox()
        await owner.declare(Topology(exchanges=(Exchange(n("x"), "fanout"),)))
        name = await owner.open_exclusive(n("mine"), ((n("x"), ""),))
        assert name == n("mine")
        await owner.consume(name, inbox, prefetch=5)
        await send(other, n, b"to all")
        assert (await inbox.one()).body == b"to all"
        await owner.close()

        async def gone() -> bool:
            try:
                await send(other, n, b"to nobody")
            except Unroutable:
                return True
            except QueueFull:
                return False  # in the moment in which it goes
            return False

        await eventually(gone)


async def test_declaring_is_idempotent_and_check_names_what_is_missing(open_world: OpenWorld, n: Names):
    async with open_world() as world:
        bus = await world.client()
        lines = await bus.check(work(n))
        assert any(n("x") in line for line in lines)
        assert any(n("q") in line for line in lines)
        with pytest.raises(QueueMissing):
            await bus.inspect(n("q"))
        await bus.declare(work(n))
        await send(bus, n, b"1")
        await bus.declare(work(n))
        assert await bus.check(work(n)) == []
        assert (await bus.inspect(n("q"))).ready == 1
