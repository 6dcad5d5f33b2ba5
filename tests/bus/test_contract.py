"""What every bus does: the embedded one and RabbitMQ 4.0 to 4.3 alike. The other half is
`test_contract_loss.py`.

Only what is true of all of them is asserted: limits of queues are soft, counts that lag are polled.
"""

from __future__ import annotations

import anyio
import pytest

from fogactors.bus import Bus, Message
from fogactors.errors import MessageTooLarge, QueueMissing, Unroutable
from fogactors.wire import Binding, Exchange, Policy, Queue, Topology
from fogactors.wire.topology import Family

from .conftest import OpenWorld
from .support import Inbox, Names, bodies, eventually, send, work

pytestmark = pytest.mark.asyncio


# -- publishing and routing


async def test_a_message_arrives_as_it_was_sent(open_world: OpenWorld, n: Names):
    async with open_world() as world:
        bus, inbox = await world.client(), Inbox()
        await bus.declare(work(n))
        await bus.consume(n("q"), inbox, prefetch=10)
        message = Message(
            b"\x00body", "task", "id-1", "application/msgpack", correlation_id="c", reply_to="reply.c", priority=7
        )
        await bus.publish(n("x"), "k", message)
        got = await inbox.one()
        assert (got.body, got.type, got.message_id, got.content_type) == (
            b"\x00body",
            "task",
            "id-1",
            "application/msgpack",
        )
        assert (got.correlation_id, got.reply_to, got.priority) == ("c", "reply.c", 7)
        assert (got.queue, got.exchange, got.routing_key) == (n("q"), n("x"), "k")
        assert (got.redelivered, got.delivery_count, got.death, got.offset) == (False, 0, None, None)
        await got.ack()
        assert (bus.stats.published, bus.stats.settled, bus.stats.stale_settles) == (1, 1, 0)


async def test_message_ids_are_made_up_and_differ(open_world: OpenWorld, n: Names):
    async with open_world() as world:
        bus, inbox = await world.client(), Inbox()
        await bus.declare(work(n))
        await bus.consume(n("q"), inbox, prefetch=10)
        await send(bus, n, b"1", b"2")
        first, second = await inbox.take(2)
        assert first.message_id
        assert first.message_id != second.message_id


async def test_a_confirmed_message_is_in_the_queue(open_world: OpenWorld, n: Names):
    async with open_world() as world:
        bus = await world.client()
        await bus.declare(work(n))
        await send(bus, n, b"1", b"2", b"3")
        info = await bus.inspect(n("q"))
        assert (info.name, info.ready, info.consumers) == (n("q"), 3, 0)


async def test_mandatory_and_unroutable_raises_with_the_message(open_world: OpenWorld, n: Names):
    async with open_world() as world:
        bus = await world.client()
        await bus.declare(work(n))
        message = Message(b"lost?")
        with pytest.raises(Unroutable) as caught:
            await bus.publish(n("x"), "no-such-key", message)
        assert caught.value.unsent is message
        await bus.publish(n("x"), "no-such-key", message, mandatory=False)
        await send(bus, n, b"still works")


@pytest.mark.parametrize(
    ("kind", "pattern", "key", "fits"),
    [
        ("direct", "a.b", "a.b", True),
        ("direct", "a.*", "a.b", False),
        ("fanout", "x", "anything", True),
        ("topic", "a.*.c", "a.b.c", True),
        ("topic", "a.*.c", "a.c", False),
        ("topic", "a.#", "a", True),
        ("topic", "a.#", "a.b.c", True),
        ("topic", "a.#", "b.a", False),
        ("topic", "#", "", True),
        ("topic", "#.c", "a.b.c", True),
        ("topic", "a.#.d.*", "a.b.c.d.e", True),
        ("topic", "a.#.d.*", "a.b.c.d", False),
    ],
)
async def test_routing(open_world: OpenWorld, n: Names, kind, pattern, key, fits):
    async with open_world() as world:
        bus = await world.client()
        await bus.declare(Topology((Exchange(n("x"), kind),), (Queue(n("q")),), (Binding(n("x"), pattern, n("q")),)))
        if fits:
            await send(bus, n, b"1", key=key)
            assert (await bus.inspect(n("q"))).ready == 1
        else:
            with pytest.raises(Unroutable):
                await send(bus, n, b"1", key=key)


async def test_every_bound_queue_gets_one_copy(open_world: OpenWorld, n: Names):
    async with open_world() as world:
        bus = await world.client()
        await bus.declare(
            Topology(
                (Exchange(n("x"), "topic"),),
                (Queue(n("a")), Queue(n("b"))),
                (
                    Binding(n("x"), "#", n("a")),
                    Binding(n("x"), "k.*", n("a")),
                    Binding(n("x"), "k.#", n("b")),
                ),
            )
        )
        await send(bus, n, b"1", key="k.1")
        assert [(await bus.inspect(n(name))).ready for name in "ab"] == [1, 1]


async def test_a_body_over_the_limit_is_refused_before_it_is_sent(open_world: OpenWorld, n: Names):
    async with open_world() as world:
        bus = await world.client(max_body=100)
        await bus.declare(work(n))
        await send(bus, n, b"x" * 100)
        message = Message(b"x" * 101)
        with pytest.raises(MessageTooLarge) as caught:
            await bus.publish(n("x"), "k", message)
        assert caught.value.unsent is message
        assert (await bus.inspect(n("q"))).ready == 1


async def test_a_queue_of_a_family_has_its_policy_whoever_makes_it(open_world: OpenWorld, n: Names):
    async with open_world() as world:
        bus = await world.client()
        names = (n("f.durable"), n("other"))
        await bus.declare(
            Topology(
                (Exchange(n("x"), "topic"),),
                tuple(Queue(name) for name in names),
                tuple(Binding(n("x"), "#", name) for name in names),
                (Family(n("f."), Policy(max_length=2, overflow="drop-head")),),
            )
        )
        await send(bus, n, *(b"%d" % number for number in range(20)))

        async def is_short() -> bool:
            return (await bus.inspect(names[0])).ready <= 3

        await eventually(is_short)
        assert (await bus.inspect(names[1])).ready == 20


async def test_an_exclusive_queue_with_a_bound_drops_its_oldest(open_world: OpenWorld, n: Names):
    async with open_world() as world:
        bus, inbox = await world.client(), Inbox()
        await bus.declare(work(n))
        mine = await bus.open_exclusive(n("mine"), ((n("x"), "k"),), max_length=2)
        await send(bus, n, *(b"%d" % number for number in range(20)))
        await bus.consume(mine, inbox, prefetch=100)
        assert bodies(await inbox.take(2)) == [b"18", b"19"]
        assert (await bus.inspect(n("q"))).ready == 20


# -- consuming and settling


async def test_prefetch_bounds_what_is_unsettled(open_world: OpenWorld, n: Names):
    async with open_world() as world:
        bus, inbox = await world.client(), Inbox()
        await bus.declare(work(n))
        await send(bus, n, b"1", b"2", b"3")
        await bus.consume(n("q"), inbox, prefetch=2)
        first, _ = await inbox.take(2)
        assert (await bus.inspect(n("q"))).ready == 1
        assert not inbox.deliveries
        await first.ack()
        assert (await inbox.one()).body == b"3"


async def test_what_is_acked_does_not_come_back(open_world: OpenWorld, n: Names):
    async with open_world() as world:
        bus, inbox = await world.client(), Inbox()
        await bus.declare(work(n))
        await send(bus, n, b"1", b"2")
        consumer = await bus.consume(n("q"), inbox, prefetch=10)
        first, _ = await inbox.take(2)
        await first.ack()
        await consumer.close()
        await bus.consume(n("q"), inbox, prefetch=10)
        assert (await inbox.one()).body == b"2"
        assert not inbox.deliveries


async def test_a_deleted_queue_is_gone_with_what_was_in_it_and_its_consumer_is_told(open_world: OpenWorld, n: Names):
    async with open_world() as world:
        bus, inbox, lost = await world.client(), Inbox(), anyio.Event()
        await bus.declare(work(n))
        await send(bus, n, b"1", b"2")
        await bus.consume(n("q"), inbox, prefetch=1, on_lost=lambda _: lost.set())
        await inbox.one()
        other = await world.client()
        await other.delete(n("q"))
        await eventually(lost.is_set)
        with pytest.raises(QueueMissing):
            await other.inspect(n("q"))
        await other.delete(n("q"))  # gone already is as good
        with pytest.raises(Unroutable):
            await send(other, n, b"3")


async def test_a_queue_that_expires_lives_as_long_as_it_has_a_consumer(open_world: OpenWorld, n: Names):
    async with open_world() as world:
        bus, inbox = await world.client(), Inbox()
        await bus.declare(work(n, Policy(expires_ms=300)))
        consumer = await bus.consume(n("q"), inbox, prefetch=1)
        await anyio.sleep(0.6)  # beyond its time, which does not run while somebody consumes
        await send(bus, n, b"1")
        await (await inbox.one()).ack()
        await consumer.close()

        async def gone() -> bool:
            # Not `inspect`: a declare is a use. And seldom: a publish in the very moment in which the queue goes ends
            # the connection on 4.0, with INTERNAL_ERROR.
            await anyio.sleep(1.0)
            try:
                await bus.publish(n("x"), "k", Message(b"2"))
            except Unroutable:
                return True
            return False

        await eventually(gone)


async def test_requeue_comes_next_and_says_so(open_world: OpenWorld, n: Names):
    async with open_world() as world:
        bus, inbox = await world.client(), Inbox()
        # With a limit, as every queue of tasks has one: without, 4.0 puts what is requeued at the end of the queue.
        await bus.declare(work(n, Policy(delivery_limit=20)))
        await send(bus, n, b"1", b"2")
        await bus.consume(n("q"), inbox, prefetch=1)
        await (await inbox.one()).requeue()
        again = await inbox.one()
        assert (again.body, again.redelivered, again.delivery_count) == (b"1", True, 1)


async def test_settling_twice_is_counted_and_changes_nothing(open_world: OpenWorld, n: Names):
    async with open_world() as world:
        bus, inbox = await world.client(), Inbox()
        await bus.declare(work(n))
        await send(bus, n, b"1")
        await bus.consume(n("q"), inbox, prefetch=1)
        delivery = await inbox.one()
        await delivery.ack()
        await delivery.requeue()
        await delivery.ack()
        assert (bus.stats.settled, bus.stats.stale_settles) == (1, 2)
        await send(bus, n, b"2")
        assert (await inbox.one()).body == b"2"


async def test_settling_on_a_closed_channel_is_counted(open_world: OpenWorld, n: Names):
    async with open_world() as world:
        bus, inbox = await world.client(), Inbox()
        await bus.declare(work(n))
        await send(bus, n, b"1")
        consumer = await bus.consume(n("q"), inbox, prefetch=1)
        delivery = await inbox.one()
        await consumer.close()
        await delivery.ack()
        assert bus.stats.stale_settles == 1
        await bus.consume(n("q"), inbox, prefetch=1)
        assert (await inbox.one()).redelivered


async def test_what_a_cancelled_consumer_holds_is_still_its_own(open_world: OpenWorld, n: Names):
    async with open_world() as world:
        bus, inbox, other = await world.client(), Inbox(), Inbox()

        async def counts(consumers: int) -> bool:
            return (await bus.inspect(n("q"))).consumers == consumers

        await bus.declare(work(n))
        await send(bus, n, b"1")
        consumer = await bus.consume(n("q"), inbox, prefetch=5)
        held = await inbox.one()
        await consumer.cancel()
        # It is counted: a server that finishes what it has seems to be there.
        assert await counts(1)
        await bus.consume(n("q"), other, prefetch=5)
        await send(bus, n, b"2")
        assert (await other.one()).body == b"2"
        assert not inbox.deliveries
        await held.ack()
        assert bus.stats.stale_settles == 0
        await eventually(lambda: counts(1))


async def test_what_is_on_its_way_when_a_consumer_is_cancelled_is_still_delivered(open_world: OpenWorld, n: Names):
    async with open_world() as world:
        bus = await world.client()
        await bus.declare(work(n))
        expected = [str(number).encode() for number in range(200)]
        await send(bus, n, *expected)
        seen: set[bytes] = set()
        cancels = charged = 0
        while len(seen) < len(expected):
            inbox = Inbox()
            consumer = await bus.consume(n("q"), inbox, prefetch=20)
            first = await inbox.one()  # the others are on their way
            await consumer.cancel()
            cancels += 1
            held = [first, *inbox.deliveries]
            charged += sum(each.redelivered for each in held)
            for each in held:
                await each.ack()
            seen |= {each.body for each in held}
            await consumer.close()
        # One that the queue has assigned and the broker's channel does not know yet no client ever sees.
        assert charged <= cancels


async def test_the_higher_consumer_priority_is_served_first(open_world: OpenWorld, n: Names):
    async with open_world() as world:
        bus, low, high = await world.client(), Inbox(), Inbox()
        await bus.declare(work(n))
        await bus.consume(n("q"), low, prefetch=5, priority=0)
        await bus.consume(n("q"), high, prefetch=2, priority=10)
        await send(bus, n, b"1", b"2", b"3")
        assert bodies(await high.take(2)) == [b"1", b"2"]
        assert bodies(await low.take(1)) == [b"3"]


async def test_equal_consumers_take_turns(open_world: OpenWorld, n: Names):
    async with open_world() as world:
        bus, a, b = await world.client(), Inbox(), Inbox()
        await bus.declare(work(n))
        await bus.consume(n("q"), a, prefetch=5)
        await bus.consume(n("q"), b, prefetch=5)
        await send(bus, n, b"1", b"2", b"3", b"4")
        assert sorted(bodies(await a.take(2)) + bodies(await b.take(2))) == [b"1", b"2", b"3", b"4"]


async def test_a_missing_queue(open_world: OpenWorld, n: Names):
    async with open_world() as world:
        bus = await world.client()
        with pytest.raises(QueueMissing, match="nothing"):
            await bus.consume(n("nothing"), Inbox(), prefetch=1)
        with pytest.raises(QueueMissing, match="nothing"):
            await bus.inspect(n("nothing"))


async def test_purge_throws_away_what_waits(open_world: OpenWorld, n: Names):
    async with open_world() as world:
        bus, inbox = await world.client(), Inbox()
        await bus.declare(work(n))
        await send(bus, n, b"1", b"2", b"3")
        await bus.consume(n("q"), inbox, prefetch=1)
        held = await inbox.one()
        assert await bus.purge(n("q")) == 2
        await held.ack()
        await send(bus, n, b"4")
        assert (await inbox.one()).body == b"4"


async def test_it_is_a_bus(open_world: OpenWorld):
    async with open_world() as world:
        assert isinstance(await world.client(), Bus)
