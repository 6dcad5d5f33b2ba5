"""The embedded broker in virtual time, and faults on demand."""

from __future__ import annotations

import anyio
import pytest
import trio

from fogactors.bus import Death, Message
from fogactors.errors import (
    BusUnavailable,
    QueueFull,
    QueueMissing,
)
from fogactors.testing.faults import Faults
from fogactors.wire import Binding, Exchange, Policy, Queue, Topology, fog_topology

from .support import DEADLINE_S, Inbox, client, queue, virtually

# -- virtual time


def test_a_day_of_delay_takes_no_time():
    async def main() -> None:
        async with client(fog_topology()) as (_, bus):
            inbox = Inbox()
            await bus.consume("tasks.normal", inbox, prefetch=1)
            await bus.publish("retry.65536", "tasks.normal", Message(b"tomorrow"))
            with anyio.fail_after(70_000):
                await inbox.came.wait()
            assert trio.current_time() == pytest.approx(65_536, abs=1)
            assert inbox.deliveries[0].death == Death("retry.65536", "expired")

    virtually(main)


def test_a_message_behind_a_longer_one_expires_with_it():
    async def main() -> None:
        policy = Policy(dead_letter_exchange="x", dead_letter_routing_key="dead")
        dead = Topology(queues=(Queue("dead"),), bindings=(Binding("x", "dead", "dead"),))
        async with client(queue(policy) + dead) as (broker, bus):
            await bus.publish("x", "k", Message(b"long", expiration=10))
            await bus.publish("x", "k", Message(b"short", expiration=1))
            await anyio.sleep(9.9)
            assert broker.depths()["q"].ready == 2
            await anyio.sleep(0.2)
            assert broker.depths()["dead"].ready == 2

    virtually(main)


def test_an_earlier_deadline_wakes_the_clock():
    async def main() -> None:
        topology = queue(Policy(message_ttl_ms=1_000)) + Topology(
            queues=(Queue("slow", policy=Policy(message_ttl_ms=100_000)),), bindings=(Binding("x", "s", "slow"),)
        )
        async with client(topology) as (broker, bus):
            await bus.publish("x", "s", Message(b"slow"))
            await anyio.sleep(1)
            await bus.publish("x", "k", Message(b"fast"))
            await anyio.sleep(1.5)
            assert {name: each.ready for name, each in broker.depths().items()} == {"q": 0, "slow": 1}

    virtually(main)


def test_refused_dead_letters_are_tried_again_after_the_pause():
    async def main() -> None:
        async with client(fog_topology(), dead_letter_retry_s=5.0) as (broker, bus):
            for _ in range(10_001):
                await bus.publish("tasks.direct", "normal", Message(b""))
            await bus.publish("retry.1", "tasks.normal", Message(b"late"))
            await anyio.sleep(2)
            assert broker.depths()["retry.1"].stalled == 1
            await bus.purge("tasks.normal")
            await anyio.sleep(3)
            assert broker.depths()["tasks.normal"].ready == 0
            await anyio.sleep(2)
            assert broker.depths()["tasks.normal"].ready == 1
            assert broker.depths()["retry.1"].stalled == 0

    virtually(main)


def test_a_stream_forgets_by_age():
    async def main() -> None:
        async with client(queue(Policy(max_age_s=60), kind="stream")) as (_, bus):
            await bus.publish("x", "k", Message(b"0"))
            await anyio.sleep(40)
            await bus.publish("x", "k", Message(b"1"))
            await anyio.sleep(40)
            inbox = Inbox()
            await bus.consume("q", inbox, prefetch=5, offset="first")
            assert [(each.offset, each.body) for each in inbox.deliveries] == [(1, b"1")]

    virtually(main)


def test_a_message_that_overtakes_expires_at_its_own_time():
    async def main() -> None:
        async with client(queue()) as (broker, bus):
            await bus.publish("x", "k", Message(b"slow", priority=0, expiration=10))
            await bus.publish("x", "k", Message(b"fast", priority=9, expiration=1))
            await anyio.sleep(1.1)
            assert broker.depths()["q"].ready == 1

    virtually(main)


def test_a_second_try_gives_no_target_two():
    async def main() -> None:
        policy = Policy(overflow="reject-publish", dead_letter_exchange="dead", dead_letter_strategy="at-least-once")
        topology = queue(policy) + Topology(
            (Exchange("dead", "fanout"),),
            (Queue("a"), Queue("full", policy=Policy(max_length=0, overflow="reject-publish"))),
            (Binding("dead", "", "a"), Binding("dead", "", "full")),
        )
        async with client(topology) as (broker, bus):
            await bus.publish("dead", "", Message(b"fills it"))
            await bus.publish("x", "k", Message(b"1", expiration=1))
            await anyio.sleep(20)
            await bus.purge("full")
            await anyio.sleep(20)
            assert {name: each.ready for name, each in broker.depths().items()} == {"q": 0, "a": 2, "full": 1}

    virtually(main)


def test_a_reader_that_is_slower_than_the_retention_goes_on_at_what_is_left():
    async def main() -> None:
        async with client(queue(Policy(max_age_s=60), kind="stream")) as (_, bus):
            inbox = Inbox()
            await bus.consume("q", inbox, prefetch=1, offset="first")
            for body in (b"0", b"1", b"2"):
                await bus.publish("x", "k", Message(body))
                await anyio.sleep(50)
            await bus.publish("x", "k", Message(b"3"))
            await (await inbox.one()).ack()
            assert (await inbox.one()).offset == 2

    virtually(main)


# -- faults


@pytest.mark.asyncio
@pytest.mark.parametrize("name", ["x", "q"])
async def test_refuse_counts_down(name):
    async with client(queue()) as (broker, bus):
        assert isinstance(broker.faults, Faults)
        broker.faults.refuse(name, times=2)
        message = Message(b"1")
        for _ in range(2):
            with pytest.raises(QueueFull) as caught:
                await bus.publish("x", "k", message)
            assert caught.value.unsent is message
        await bus.publish("x", "k", message)
        assert broker.depths()["q"].ready == 1


@pytest.mark.asyncio
async def test_a_lost_confirm_raises_although_the_message_is_there():
    async with client(queue()) as (broker, bus):
        broker.faults.lose_confirms()
        with pytest.raises(BusUnavailable, match="may have arrived"):
            await bus.publish("x", "k", Message(b"1"))
        assert (broker.depths()["q"].ready, bus.stats.published) == (1, 0)
        await bus.publish("x", "k", Message(b"2"))


def test_confirms_can_be_slow_and_too_slow():
    async def main() -> None:
        async with client(queue()) as (broker, bus):
            broker.faults.confirm_delay_s = 3.0
            await bus.publish("x", "k", Message(b"1"), timeout=10)
            assert trio.current_time() == pytest.approx(3, abs=0.1)
            with pytest.raises(BusUnavailable, match="no confirm in time"):
                await bus.publish("x", "k", Message(b"2"), timeout=1)
            assert trio.current_time() == pytest.approx(4, abs=0.1)
            assert broker.depths()["q"].ready == 2

    virtually(main)


@pytest.mark.asyncio
async def test_a_connection_lost_before_the_confirm():
    async with client(queue()) as (broker, bus):
        broker.faults.confirm_delay_s = 60.0
        with anyio.fail_after(DEADLINE_S):
            async with anyio.create_task_group() as tasks:

                async def publish() -> None:
                    with pytest.raises(BusUnavailable, match="before the confirm"):
                        await bus.publish("x", "k", Message(b"1"), timeout=60)

                tasks.start_soon(publish)
                await anyio.wait_all_tasks_blocked()
                assert broker.faults.drop_connections() == 1


@pytest.mark.asyncio
async def test_redeliver_makes_a_duplicate_of_what_was_acked():
    async with client(queue()) as (broker, bus):
        inbox = Inbox()
        await bus.consume("q", inbox, prefetch=1)
        await bus.publish("x", "k", Message(b"1", message_id="same"))
        broker.faults.redeliver("q")
        await (await inbox.one()).ack()
        again = await inbox.one()
        assert (again.message_id, again.redelivered, again.delivery_count) == ("same", True, 1)
        await again.ack()
        assert not inbox.deliveries


def test_down_until_up():
    async def main() -> None:
        async with client(queue()) as (broker, bus):
            await bus.publish("x", "k", Message(b"1"))
            broker.faults.down("a storm")
            assert await bus.wait_lost() == "a storm"
            with pytest.raises(BusUnavailable, match="a storm"):
                await bus.open()
            with pytest.raises(BusUnavailable, match="a storm; waited 5 s"):
                await bus.publish("x", "k", Message(b"2"), timeout=5)
            assert trio.current_time() == pytest.approx(5, abs=0.1)
            broker.faults.up()
            await bus.open()
            await bus.publish("x", "k", Message(b"3"))
            assert (await bus.inspect("q")).ready == 2

    virtually(main)


@pytest.mark.asyncio
async def test_deleting_what_is_not_there_says_so():
    async with client(queue()) as (broker, _):
        with pytest.raises(QueueMissing, match="'nothing'"):
            broker.delete_queue("nothing")
