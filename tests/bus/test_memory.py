"""What only the embedded broker promises: RabbitMQ 4.3's exact behaviour, and its own life."""

from __future__ import annotations

from dataclasses import replace

import anyio
import pytest

from fogactors.bus import Death, MemoryBroker, MemoryBus, Message
from fogactors.bus.routing import topic_matches
from fogactors.errors import (
    AccessRefused,
    BusError,
    BusUnavailable,
    QueueFull,
    TopologyMismatch,
    Unroutable,
)
from fogactors.wire import Binding, Exchange, Policy, Queue, Topology
from fogactors.wire.topology import due_queue

from .support import Inbox, bodies, client, queue

# -- exact limits and orders


@pytest.mark.asyncio
async def test_priorities_are_strict_and_first_in_first_out_within():
    async with client(queue()) as (_, bus):
        for body, priority in [(b"none", None), (b"low", 0), (b"high", 31), (b"four", 4), (b"over", 200)]:
            await bus.publish("x", "k", Message(body, priority=priority))
        inbox = Inbox()
        await bus.consume("q", inbox, prefetch=1)
        got = []
        for _ in range(5):
            delivery = await inbox.one()
            got.append(delivery.body)
            await delivery.ack()
        assert got == [b"high", b"over", b"none", b"four", b"low"]


@pytest.mark.asyncio
async def test_a_returned_message_goes_ahead_of_every_priority():
    async with client(queue()) as (_, bus):
        inbox = Inbox()
        await bus.consume("q", inbox, prefetch=1)
        await bus.publish("x", "k", Message(b"low", priority=0))
        await bus.publish("x", "k", Message(b"high", priority=31))
        await (await inbox.one()).requeue()
        assert (await inbox.one()).body == b"low"


@pytest.mark.asyncio
async def test_a_full_queue_takes_one_more_than_its_length_and_again_at_four_fifths():
    async with client(queue(Policy(max_length=10, overflow="reject-publish"))) as (_, bus):
        for _ in range(11):
            await bus.publish("x", "k", Message(b"1"))
        inbox = Inbox()
        consumer = await bus.consume("q", inbox, prefetch=2)
        with pytest.raises(QueueFull, match="refused by q"):
            await bus.publish("x", "k", Message(b"2"))
        await consumer.cancel()
        await bus.consume("q", inbox, prefetch=1)
        await bus.publish("x", "k", Message(b"3"))


@pytest.mark.asyncio
async def test_drop_head_drops_the_oldest_whatever_its_priority():
    async with client(queue(Policy(max_length=2, overflow="drop-head"))) as (_, bus):
        for priority in (0, 31, 15):
            await bus.publish("x", "k", Message(b"%d" % priority, priority=priority))
        inbox = Inbox()
        await bus.consume("q", inbox, prefetch=5)
        assert bodies(inbox.deliveries) == [b"31", b"15"]


@pytest.mark.asyncio
async def test_without_a_dead_letter_exchange_what_is_given_up_is_gone():
    async with client(queue(Policy(delivery_limit=0))) as (broker, bus):
        inbox = Inbox()
        await bus.consume("q", inbox, prefetch=1)
        await bus.publish("x", "k", Message(b"1"))
        await (await inbox.one()).requeue()
        assert not inbox.deliveries
        assert broker.depths()["q"].ready == 0


@pytest.mark.asyncio
async def test_at_most_once_dead_letters_are_forced_into_a_full_queue():
    dropping = Policy(max_length=1, overflow="drop-head", dead_letter_exchange="x", dead_letter_routing_key="full")
    topology = queue(dropping) + Topology(
        queues=(Queue("full", policy=Policy(max_length=0, overflow="reject-publish")),),
        bindings=(Binding("x", "full", "full"),),
    )
    async with client(topology) as (broker, bus):
        await bus.publish("x", "full", Message(b"fills it"))
        for _ in range(3):
            await bus.publish("x", "k", Message(b"1"))
        assert broker.depths()["full"].ready == 3
        inbox = Inbox()
        await bus.consume("full", inbox, prefetch=5)
        assert inbox.deliveries[1].death == Death("q", "maxlen")


@pytest.mark.asyncio
async def test_a_cycle_without_a_rejection_is_dropped_and_one_with_it_is_not():
    policy = Policy(delivery_limit=0, dead_letter_exchange="x")
    async with client(queue(policy)) as (broker, bus):
        inbox = Inbox()
        await bus.consume("q", inbox, prefetch=1)
        await bus.publish("x", "k", Message(b"1"))
        await (await inbox.one()).reject()
        await (await inbox.one()).reject()
        last = await inbox.one()
        assert last.death == Death("q", "rejected", 2)
        await last.requeue()
        assert not inbox.deliveries
        assert broker.depths()["q"].ready == 0


@pytest.mark.asyncio
async def test_one_full_queue_of_several_refuses_for_all_and_the_rest_have_it():
    topology = queue() + Topology(
        queues=(Queue("full", policy=Policy(max_length=0, overflow="reject-publish")),),
        bindings=(Binding("x", "k", "full"),),
    )
    async with client(topology) as (broker, bus):
        await bus.publish("x", "k", Message(b"1"))
        with pytest.raises(QueueFull):
            await bus.publish("x", "k", Message(b"2"))
        assert {name: each.ready for name, each in broker.depths().items()} == {"q": 2, "full": 1}


@pytest.mark.parametrize(("pattern", "key", "fits"), [("#.#", "", True), ("*", "", False), ("a.*", "a.", True)])
def test_topics_at_the_edges(pattern, key, fits):
    assert topic_matches(pattern, key) is fits


def test_a_hostile_topic_key_costs_no_exponential_time():
    assert not topic_matches(".".join(["#", "a"] * 30) + ".b", ".".join(["a"] * 100))


# -- what is refused


@pytest.mark.asyncio
async def test_nobody_publishes_to_the_default_exchange():
    async with client(queue()) as (_, bus):
        with pytest.raises(AccessRefused, match="default exchange"):
            await bus.publish("", "q", Message(b"1"))


@pytest.mark.asyncio
async def test_a_missing_exchange_is_named():
    async with client(queue()) as (_, bus):
        with pytest.raises(Unroutable, match="no exchange 'y'"):
            await bus.publish("y", "k", Message(b"1"), mandatory=False)


@pytest.mark.asyncio
async def test_another_connections_exclusive_queue_is_refused():
    async with client(queue()) as (broker, bus):
        other = MemoryBus(broker)
        await other.open()
        name = await bus.open_exclusive("", (("x", "mine"),))
        for attempt in (
            other.consume(name, Inbox(), prefetch=1),
            other.inspect(name),
            other.open_exclusive(name, ()),
        ):
            with pytest.raises(AccessRefused):
                await attempt


@pytest.mark.asyncio
async def test_a_client_that_only_shares_the_name_owns_nothing():
    async with client(queue()) as (broker, bus):
        name = await bus.open_exclusive("mine", (("x", "mine"),))
        twin = MemoryBus(broker, name=bus.name)
        await twin.open()
        with pytest.raises(AccessRefused):
            await twin.inspect(name)


@pytest.mark.asyncio
async def test_declaring_something_else_under_the_same_name_is_refused():
    async with client(queue()) as (broker, _):
        for other in (
            Topology(exchanges=(Exchange("x", "fanout"),)),
            queue(kind="stream"),
            Topology(bindings=(Binding("y", "k", "q"),)),
            Topology(bindings=(Binding("x", "k", "nothing"),)),
        ):
            with pytest.raises(TopologyMismatch):
                broker.declare(other)


@pytest.mark.asyncio
async def test_impossible_subscriptions_are_programming_errors():
    async with client(queue()) as (_, bus):
        with pytest.raises(ValueError, match="prefetch"):
            await bus.consume("q", Inbox(), prefetch=0)
        with pytest.raises(ValueError, match="offset"):
            await bus.consume("q", Inbox(), prefetch=1, offset="first")


@pytest.mark.asyncio
async def test_a_stream_cannot_be_purged():
    async with client(queue(kind="stream")) as (_, bus):
        with pytest.raises(BusError, match="stream"):
            await bus.purge("q")


@pytest.mark.asyncio
async def test_a_broker_that_is_not_entered_is_unavailable():
    bus = MemoryBus(MemoryBroker())
    with pytest.raises(BusUnavailable, match="async with"):
        await bus.open()


# -- the broker's own life


@pytest.mark.asyncio
async def test_an_error_in_the_body_comes_out_as_it_was():
    with pytest.raises(KeyError, match="mine"):
        async with MemoryBroker():
            raise KeyError("mine")


@pytest.mark.asyncio
async def test_leaving_the_broker_ends_every_connection():
    async with client(queue()) as (_, bus):
        reasons: list[str] = []
        await bus.consume("q", Inbox(), prefetch=1, on_lost=reasons.append)
    assert await bus.wait_lost() == reasons[0] == "the broker has stopped"


@pytest.mark.asyncio
async def test_a_flood_of_publishes_lets_others_run():
    async with client(queue()) as (_, bus):
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await anyio.lowlevel.checkpoint()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(other)
            for _ in range(320):
                await bus.publish("x", "k", Message(b"1"))
            tasks.cancel_scope.cancel()
        assert turns >= 19


@pytest.mark.asyncio
async def test_a_handler_that_causes_deliveries_does_not_recurse():
    async with client(queue()) as (broker, bus):
        depth, deepest, seen = 0, 0, 0

        def handler(_delivery) -> None:
            nonlocal depth, deepest, seen
            depth += 1
            seen += 1
            deepest = max(deepest, depth)
            if seen < 2000:
                broker.publish("x", "k", Message(b"1"), mandatory=True)
            depth -= 1

        await bus.consume("q", handler, prefetch=5000)
        await bus.publish("x", "k", Message(b"1"))
        assert (seen, deepest) == (2000, 1)


@pytest.mark.asyncio
async def test_depths_count_what_waits_what_is_held_and_what_is_stalled():
    policy = Policy(overflow="reject-publish", dead_letter_exchange="gone", dead_letter_strategy="at-least-once")
    async with client(queue(policy)) as (broker, bus):
        inbox = Inbox()
        for _ in range(4):
            await bus.publish("x", "k", Message(b"1"))
        await bus.consume("q", inbox, prefetch=2)
        await inbox.deliveries[0].reject()
        depth = broker.depths()["q"]
        assert (depth.ready, depth.unsettled, depth.stalled, depth.consumers) == (1, 2, 1, 1)


@pytest.mark.asyncio
async def test_the_history_of_a_delivery_leaves_out_the_waiting_room():
    leads_on = Policy(message_ttl_ms=1, dead_letter_exchange="")
    topology = Topology(
        exchanges=(Exchange("retry.1", "fanout"),),
        queues=(
            Queue("retry.1", policy=leads_on),
            Queue(due_queue("tasks.q"), policy=replace(leads_on, dead_letter_routing_key="tasks.q")),
            Queue("tasks.q"),
        ),
        bindings=(Binding("retry.1", "", "retry.1"),),
    )
    async with client(topology) as (_, bus):
        inbox = Inbox()
        await bus.consume("tasks.q", inbox, prefetch=1)
        await bus.publish("retry.1", due_queue("tasks.q"), Message(b"1"))
        assert (await inbox.one()).death == Death("retry.1", "expired")


@pytest.mark.asyncio
async def test_a_binding_made_later_counts_for_keys_seen_before():
    async with client(queue()) as (broker, bus):
        await bus.publish("x", "k", Message(b"1"))
        broker.declare(Topology(queues=(Queue("late"),), bindings=(Binding("x", "k", "late"),)))
        await bus.publish("x", "k", Message(b"2"))
        assert {name: each.ready for name, each in broker.depths().items()} == {"q": 2, "late": 1}


@pytest.mark.asyncio
async def test_a_consumer_we_cancelled_is_not_told_of_the_lost_connection():
    async with client(queue()) as (broker, bus):
        reasons: list[str] = []
        await (await bus.consume("q", Inbox(), prefetch=1, on_lost=reasons.append)).cancel()
        broker.kill_connection(bus.name)
        assert reasons == []
