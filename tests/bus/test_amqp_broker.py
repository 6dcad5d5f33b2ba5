"""The bus when the broker itself has a bad day: alarms, consumer timeouts, kill -9. Slow, because brokers are."""

from __future__ import annotations

import anyio
import pytest

from fogactors.bus import Message
from fogactors.bus.amqp import AmqpBus
from fogactors.bus.link import BusBlocked, link_spec
from fogactors.core import ActorSystem, Backoff
from fogactors.errors import BusUnavailable
from tests.services import RabbitMQ

from .amqp_support import each_fails, failing, far, quiet
from .support import DEADLINE_S, Inbox, Names, eventually, send, work

pytestmark = [pytest.mark.services, pytest.mark.asyncio]


async def test_under_a_memory_alarm_publishing_waits_and_everything_else_goes_on(rabbit: RabbitMQ, n: Names):
    async with far(rabbit, n) as it:
        inbox, events = Inbox(), list[BusBlocked]()
        system = ActorSystem()
        system.events.subscribe(lambda event: events.append(event) if isinstance(event, BusBlocked) else None)
        await send(it.bus, n, *(b"before",) * 5)
        await it.bus.consume(n("q"), inbox, prefetch=1)
        async with system:
            await system.start(link_spec(it.bus, Backoff()))
            await rabbit.ctl("set_vm_memory_high_watermark", "absolute", "1MB")
            try:
                assert not it.bus.is_blocked  # nobody is told before the first publish
                outcomes = await each_fails(it.bus, n, 3, timeout=1)
                assert it.bus.is_blocked
                assert all(
                    "memory or disk alarm and took no messages within 1 s; it may" in text for text, _ in outcomes
                )
                outcomes = await each_fails(it.bus, n, 50, timeout=1)
                assert all(1 <= took <= 1.5 for _, took in outcomes)
                assert not any("it may still arrive" in text for text, _ in outcomes)  # they were not sent
                for _ in range(5):
                    await (await inbox.one()).ack()
                await eventually(lambda: [event.blocked for event in events] == [True])
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(send, it.bus, n, b"patient")
                    await anyio.wait_all_tasks_blocked()
                    await rabbit.ctl("set_vm_memory_high_watermark", "absolute", "1GiB")
            finally:
                await rabbit.ctl("set_vm_memory_high_watermark", "absolute", "1GiB")
            assert not it.bus.is_blocked
            await eventually(lambda: [event.blocked for event in events] == [True, False])
            assert events[0].path == "link"
            arrived = []
            for _ in range(4):
                delivery = await inbox.one()
                arrived.append(delivery.body)
                await delivery.ack()
            assert len(set(arrived)) == 4  # those that had been sent, and the patient one
            assert arrived[-1] == b"patient"


async def test_a_connection_that_is_cut_under_an_alarm_is_told_of(rabbit: RabbitMQ, n: Names):
    async with far(rabbit, n) as it:
        await send(it.bus, n, b"1")
        await rabbit.ctl("set_vm_memory_high_watermark", "absolute", "1MB")
        try:
            await each_fails(it.bus, n, 1, timeout=0.3)
            async with anyio.create_task_group() as tasks:
                for _ in range(5):
                    tasks.start_soon(failing, it.bus.publish(n("x"), "k", Message(b"2"), timeout=9))
                await anyio.wait_all_tasks_blocked()
                began = anyio.current_time()
                it.proxy.cut()
            assert anyio.current_time() - began < 0.3
        finally:
            await rabbit.ctl("set_vm_memory_high_watermark", "absolute", "1GiB")


async def test_a_consumer_that_holds_a_delivery_too_long_is_lost_and_consumes_again_elsewhere(
    rabbit: RabbitMQ, n: Names
):
    async with far(rabbit, n) as it:
        policy = {"pattern": f"^{n('q')}$", "definition": {"consumer-timeout": 2000}, "apply-to": "queues"}
        await rabbit.api("PUT", f"/api/policies/%2Ffog/{n('late')}", policy)
        reasons, inbox = list[str](), Inbox()
        consumer = await it.bus.consume(n("q"), inbox, prefetch=5, on_lost=reasons.append)
        await send(it.bus, n, b"long")
        held = await inbox.one()
        with anyio.fail_after(15):
            await eventually(lambda: len(reasons) == 1)
            assert reasons == ["the broker cancelled the consumer"]
            await held.ack()
            assert (it.bus.stats.settled, it.bus.stats.stale_settles) == (0, 1)
            await consumer.close()
            again = Inbox()
            await it.bus.consume(n("q"), again, prefetch=5)
            delivery = await again.one()
        assert delivery.redelivered
        await delivery.ack()
        await send(it.bus, n, b"next")
        await (await again.one()).ack()
        assert (it.bus.is_open, it.bus.stats.connections, len(reasons)) == (True, 1, 1)


async def outlive(broker: RabbitMQ, n: Names) -> None:
    """Every confirmed publish is there after kill -9 and restart, every other raised, and everybody is told fast."""
    bus, inbox, reasons = AmqpBus(broker.amqp_url), Inbox(), list[str]()
    confirmed: set[bytes] = set()
    raised: set[bytes] = set()
    told_at: list[float] = []

    async def publisher(name: int) -> None:
        for number in range(1_000_000):
            body = f"{name}-{number}".encode()
            try:
                await bus.publish(n("x"), "k", Message(body), timeout=5)
                confirmed.add(body)
            except BusUnavailable:
                raised.add(body)
                told_at.append(anyio.current_time())
                return

    async with quiet():
        await bus.open()
        await bus.declare(work(n))
        await bus.consume(n("q"), inbox, prefetch=10, on_lost=reasons.append)
        await broker.flush_declarations()
        async with anyio.create_task_group() as tasks:
            for name in range(20):
                tasks.start_soon(publisher, name)
            await eventually(lambda: len(confirmed) > 500)
            killed_at = anyio.current_time()
            await broker.kill9()
            with anyio.fail_after(1):
                await bus.wait_lost()
        assert max(told_at) - killed_at < 1
        assert (len(reasons), len(raised)) == (1, 20)
        inbox.deliveries.clear()
        error, took = await failing(bus.open())
        assert "Connection refused" in str(error)
        assert took < 0.5
        await broker.restart()
        with anyio.fail_after(DEADLINE_S):
            await bus.open()
        await bus.consume(n("q"), inbox, prefetch=1000)
        got = set()
        while not confirmed <= got:
            for delivery in await inbox.take(1):
                got.add(delivery.body)
                await delivery.ack()
        assert got <= confirmed | raised
        await bus.close()


async def test_what_was_confirmed_outlives_kill_9_of_the_broker(rabbit: RabbitMQ, n: Names):
    await outlive(rabbit, n)


async def test_what_was_confirmed_outlives_kill_9_of_an_older_broker(rabbit40: RabbitMQ, n: Names):
    await outlive(rabbit40, n)


async def test_an_older_broker_refuses_in_the_same_words(rabbit40: RabbitMQ, n: Names):
    from .test_amqp_refusals import everybody, refused

    assert "wrong name or password" in await refused(rabbit40.amqp_url_for("nobody", "secret"))
    assert "has no virtual host '/none'" in await refused(rabbit40.amqp_url.replace("%2Ffog", "%2Fnone"))
    async with far(rabbit40, n, max_body=20 << 20) as it:
        outcomes = await everybody(
            it.bus, n, {"missing": (n("none"), "k", Message(b"1")), "large": (n("x"), "k", Message(bytes(17 << 20)))}
        )
        assert outcomes["innocent"] == [None] * 60
        assert [type(each).__name__ for each in outcomes["missing"] + outcomes["large"]] == ["Unroutable"] * 3 + [
            "MessageTooLarge"
        ] * 3
