"""The bus on RabbitMQ when the network has a bad day: nothing hangs, and everybody is told."""

from __future__ import annotations

import gc
import socket
import tracemalloc
from contextlib import suppress

import anyio
import pytest

from fogactors.bus import Message
from fogactors.bus.amqp import AmqpBus
from fogactors.bus.amqp_trial import FIRST_CONFIRM_S
from fogactors.errors import BusUnavailable, Unroutable
from fogactors.testing.proxy import TcpProxy
from tests.services import RabbitMQ

from .amqp_support import each_fails, failing, far, quiet, through, work
from .support import DEADLINE_S, Inbox, Names, eventually, send

pytestmark = [pytest.mark.services, pytest.mark.asyncio]


# -- publishing to a broker that cannot be reached (behaviour 4)


def in_time(outcomes: list[tuple], count: int, text: str) -> None:
    assert len(outcomes) == count
    assert all(1.99 <= took <= 2.5 for _, took in outcomes)
    assert all(text in error for error, _ in outcomes), outcomes[0]


async def test_a_publish_to_a_closed_port_raises_in_time(n: Names):
    async with quiet():
        bus = AmqpBus("amqp://guest:guest@127.0.0.1:1/")
        with anyio.fail_after(1), pytest.raises(BusUnavailable, match="Connection refused"):
            await bus.open()
        in_time(await each_fails(bus, n, 200, timeout=2), 200, "no connection to the broker within 2 s")


async def test_a_publish_to_a_host_that_says_nothing_raises_in_time(rabbit: RabbitMQ, n: Names):
    async with far(rabbit) as it:
        it.proxy.stall()
        reopened = 0

        async def link() -> None:
            nonlocal reopened
            while True:
                error, took = await failing(it.bus.open(timeout=0.3))
                assert "did not speak AMQP within 0." in str(error)
                assert took < 0.6
                reopened += 1

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(link)
            in_time(await each_fails(it.bus, n, 200, timeout=2), 200, "no connection")
            tasks.cancel_scope.cancel()
        assert reopened >= 3
        it.proxy.resume()
        await it.left_nothing_behind()


@pytest.mark.parametrize("how", ["stall", "half_open"])
async def test_a_publish_on_a_line_that_died_in_mid_life_raises_in_time_and_memory_stays_flat(
    rabbit: RabbitMQ, n: Names, how: str
):
    async with far(rabbit, n) as it:
        await send(it.bus, n, b"before")
        getattr(it.proxy, how)()
        tracemalloc.start()
        in_time(
            await each_fails(it.bus, n, 200, size=65_536, timeout=2), 200, "did not confirm within 2 s; it may still"
        )
        gc.collect()
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert held < 3_000_000  # of 13 MB
        assert it.bus.is_open
        it.proxy.cut()
        with anyio.fail_after(1):
            await it.bus.wait_lost()
        it.proxy.resume()
        await it.bus.open()
        await send(it.bus, n, b"after")


# -- a connection that is cut


async def test_everybody_is_told_at_once_and_once_when_the_connection_is_cut(rabbit: RabbitMQ, n: Names):
    async with far(rabbit, n) as it:
        reasons, told = list[str](), list[tuple[str, float]]()
        ticks = 0

        async def sibling() -> None:
            nonlocal ticks
            while True:
                await anyio.sleep(0.01)
                ticks += 1

        async def pending(operation) -> None:
            error, _ = await failing(operation)
            told.append((str(error), anyio.current_time()))

        inbox = Inbox()
        await it.bus.consume(n("q"), inbox, prefetch=10, on_lost=reasons.append)
        await send(it.bus, n, b"1")
        held = await inbox.one()
        it.proxy.stall()
        with anyio.fail_after(DEADLINE_S):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(sibling)
                async with anyio.create_task_group() as waiting:
                    for size in (10, 1_000_000):
                        for _ in range(20):
                            waiting.start_soon(pending, it.bus.publish(n("x"), "k", Message(bytes(size)), timeout=9))
                    waiting.start_soon(pending, it.bus.inspect(n("q")))
                    waiting.start_soon(pending, it.bus.consume(n("q"), Inbox(), prefetch=1, on_lost=reasons.append))
                    await anyio.wait_all_tasks_blocked()  # all are on their way
                    assert told == []
                    cut_at = anyio.current_time()
                    assert it.proxy.cut() == 2
                    reason = await it.bus.wait_lost()
                assert [at - cut_at < 0.3 for _, at in told] == [True] * 42
                assert all("the connection was lost: " in text for text, _ in told)
                ticked = ticks
                await eventually(lambda: ticks > ticked + 3)
                tasks.cancel_scope.cancel()
        assert "reset" in reason
        assert reasons == [reason]
        await held.ack()
        assert it.bus.stats.stale_settles == 1
        it.proxy.resume()
        await it.bus.open()
        await it.bus.consume(n("q"), inbox, prefetch=10)
        assert (await inbox.one()).redelivered
        assert it.bus.stats.connections == 2


async def test_a_line_that_is_cut_while_everything_is_busy_is_told_of_and_reopens(rabbit: RabbitMQ, n: Names):
    async with far(rabbit, n) as it:
        confirmed, inbox = 0, Inbox()

        async def publisher() -> None:
            nonlocal confirmed
            while True:
                await it.bus.publish(n("x"), "k", Message(b"x" * 500))
                confirmed += 1

        for round_ in range(1, 6):
            await it.bus.open()
            await it.bus.consume(n("q"), inbox, prefetch=50)
            async with anyio.create_task_group() as tasks:
                for _ in range(10):
                    tasks.start_soon(failing, publisher())
                await eventually(lambda round_=round_: confirmed > 50 * round_)
                for delivery in inbox.deliveries:
                    await delivery.ack()
                inbox.deliveries.clear()
                it.proxy.cut()
        assert it.bus.stats.connections == 5


# -- lines that die without a word


async def test_a_broker_that_is_silent_is_noticed_by_its_missing_heartbeats(rabbit: RabbitMQ, n: Names):
    async with far(rabbit, n, heartbeat_s=1) as it:
        reasons = list[str]()
        await it.bus.consume(n("q"), Inbox(), prefetch=1, on_lost=reasons.append)
        it.proxy.stall()
        stalled_at = anyio.current_time()
        with anyio.fail_after(7):  # twice the heartbeat and a second, looked at each second
            reason = await it.bus.wait_lost()
        assert anyio.current_time() - stalled_at > 2
        assert reasons == [reason] == ["nothing came from the broker for too long"]
        with anyio.fail_after(0.5):
            await it.bus.close()
        it.proxy.resume()
        await it.left_nothing_behind()


async def test_a_broker_that_only_has_nothing_to_say_is_kept(rabbit: RabbitMQ, n: Names):
    async with far(rabbit, n, heartbeat_s=1) as it:
        with anyio.move_on_after(6):
            await it.bus.wait_lost()
        assert it.bus.is_open
        await send(it.bus, n, b"still here")


async def test_the_kernel_is_asked_to_notice_a_host_that_vanishes(rabbit: RabbitMQ, n: Names):
    async with far(rabbit, n) as it:
        for connection in (it.bus._publishing, it.bus._consuming):
            sock = connection._transport.writer.get_extra_info("socket")
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 4000
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 2


# -- several hosts


async def test_a_host_whose_connection_was_lost_is_tried_last(rabbit: RabbitMQ):
    """It may have vanished, and then it costs two seconds to get no answer from it."""
    async with quiet(), TcpProxy.to("127.0.0.1", rabbit.port) as one, TcpProxy.to("127.0.0.1", rabbit.port) as two:
        url = through(one, rabbit.amqp_url).replace(f":{one.port}", f":{one.port},127.0.0.1:{two.port}")
        bus = AmqpBus(url)
        await bus.open()
        gone, other = (one, two) if one.connections else (two, one)
        gone.cut()
        await bus.wait_lost()
        gone.stall()
        began = anyio.current_time()
        await bus.open()
        assert anyio.current_time() - began < 1
        assert other.connections == 2
        await bus.close()


async def reopened_onto(rabbit: RabbitMQ, bus: AmqpBus, one: TcpProxy, two: TcpProxy) -> TcpProxy:
    """Let it lose its host; returns the one that it is on then."""
    gone = one if one.connections else two
    gone.cut()
    await bus.wait_lost()
    await bus.open()
    return one if one.connections else two


async def test_a_host_that_takes_the_connection_and_then_confirms_nothing_is_left_once(rabbit: RabbitMQ, n: Names):
    async with quiet(), TcpProxy.to("127.0.0.1", rabbit.port) as one, TcpProxy.to("127.0.0.1", rabbit.port) as two:
        url = through(one, rabbit.amqp_url).replace(f":{one.port}", f":{one.port},127.0.0.1:{two.port}")
        bus = AmqpBus(url)
        await bus.open()
        await bus.declare(work(n))
        await send(bus, n, b"before")
        for again in (True, False, True):
            silent = await reopened_onto(rabbit, bus, one, two)
            silent.stall()
            error, took = await failing(bus.publish(n("x"), "k", Message(b"1"), timeout=FIRST_CONFIRM_S + 1))
            assert isinstance(error, BusUnavailable)
            if again:
                assert "confirmed nothing within 5 s" in str(error)
                assert took < FIRST_CONFIRM_S + 0.9
                assert not bus.is_open
                await bus.open()
                assert (one if silent is two else two).connections == 2
                silent.resume()
                await eventually(lambda it=silent: it.connections == 0)
            else:  # the next is silent too
                assert "did not confirm within 6 s" in str(error)
                assert bus.is_open
                silent.resume()
                await send(bus, n, b"between")
        await send(bus, n, b"after")
        await bus.close()


@pytest.mark.parametrize("answer", ["a confirm", "a return"])
async def test_a_host_that_answers_the_first_message_is_kept(rabbit: RabbitMQ, n: Names, answer: str):
    async with quiet(), TcpProxy.to("127.0.0.1", rabbit.port) as one, TcpProxy.to("127.0.0.1", rabbit.port) as two:
        url = through(one, rabbit.amqp_url).replace(f":{one.port}", f":{one.port},127.0.0.1:{two.port}")
        bus = AmqpBus(url)
        await bus.open()
        await bus.declare(work(n))
        now = await reopened_onto(rabbit, bus, one, two)
        with suppress(Unroutable):
            await bus.publish(n("x"), "k" if answer == "a confirm" else "nobody", Message(b"1"))
        now.stall()
        error, _ = await failing(bus.publish(n("x"), "k", Message(b"2"), timeout=FIRST_CONFIRM_S + 1))
        assert "did not confirm within 6 s" in str(error)
        assert bus.is_open
        now.resume()
        await bus.close()


async def test_the_host_that_worked_last_is_first_and_the_next_takes_over(rabbit: RabbitMQ):
    async with quiet(), TcpProxy.to("127.0.0.1", rabbit.port) as one, TcpProxy.to("127.0.0.1", rabbit.port) as two:
        url = through(one, rabbit.amqp_url).replace(f":{one.port}", f":{one.port},127.0.0.1:{two.port}")
        bus = AmqpBus(url)
        await bus.open()
        first, second = (one, two) if one.connections else (two, one)
        assert (first.connections, second.accepted) == (2, 0)
        for _ in range(5):
            await bus.close()
            await bus.open()
        assert second.accepted == 0
        first.refusing = True
        first.cut()
        await bus.wait_lost()
        began = anyio.current_time()
        await bus.open()
        assert anyio.current_time() - began < 1
        assert second.connections == 2
        first.refusing = False
        await bus.close()
        await bus.open()
        assert (first.connections, second.connections) == (0, 2)
        await bus.close()


async def test_hosts_that_are_silent_cost_two_seconds_each_of_the_time_to_open(rabbit: RabbitMQ):
    async with quiet(), TcpProxy.to("127.0.0.1", rabbit.port) as silent:
        silent.stall()
        good = f"127.0.0.1:{rabbit.port}"
        bus = AmqpBus(rabbit.amqp_url.replace(good, f"127.0.0.1:{silent.port},{good}"))
        bus._last_good = 0
        began = anyio.current_time()
        await bus.open(timeout=10)
        assert 1.9 < anyio.current_time() - began < 3
        await bus.close()


async def test_when_all_hosts_are_dead_one_line_names_each(rabbit: RabbitMQ):
    async with quiet(), TcpProxy.to("127.0.0.1", rabbit.port) as silent, TcpProxy.to("127.0.0.1", 1) as resetting:
        silent.stall()
        hosts = ["127.0.0.1:1", f"127.0.0.1:{silent.port}", f"127.0.0.1:{resetting.port}"]
        error, took = await failing(AmqpBus(f"amqp://u:secret@{','.join(hosts)}/v").open(timeout=1))
        assert took < 1.5
        assert all(f"; {host}: " in f"; {str(error).partition('used: ')[2]}" for host in hosts), error
        assert "\n" not in str(error)
        assert "secret" not in str(error)


# -- opening and closing at the wrong moment


async def test_an_open_that_is_cancelled_at_any_stage_leaves_no_connection_behind(rabbit: RabbitMQ):
    async with far(rabbit) as it:
        it.proxy.delay_s = 0.02
        finished = 0
        for step in range(24):
            with anyio.move_on_after(step * 0.015) as scope:
                await it.bus.open()
            finished += not scope.cancelled_caught
            await it.bus.close()
            await it.left_nothing_behind()
        assert 0 < finished < 20
        assert it.bus.stats.connections == finished


async def test_an_open_that_times_out_at_any_stage_leaves_no_connection_behind(rabbit: RabbitMQ):
    async with far(rabbit) as it:
        it.proxy.delay_s = 0.02
        for step in range(1, 12):
            if step < 6:
                _, took = await failing(it.bus.open(timeout=step * 0.03))
                assert took < step * 0.03 + 0.1
            else:
                with suppress(BusUnavailable):
                    await it.bus.open(timeout=step * 0.03)
            await it.bus.close()
            await it.left_nothing_behind()


async def test_opened_by_many_at_once_it_connects_once(rabbit: RabbitMQ):
    async with far(rabbit) as it:
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(it.bus.open)
        assert (it.proxy.accepted, it.bus.stats.connections) == (2, 1)


async def test_closed_while_it_opens_it_stays_closed(rabbit: RabbitMQ):
    async with far(rabbit) as it:
        it.proxy.delay_s = 0.02
        for step in range(8):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(failing, it.bus.open())
                await anyio.sleep(step * 0.02)
                await it.bus.close()
            assert not it.bus.is_open
            await it.left_nothing_behind()


async def test_publishes_that_wait_for_a_confirm_are_told_that_the_bus_was_closed(rabbit: RabbitMQ, n: Names):
    async with far(rabbit, n) as it:
        it.proxy.half_open()
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(failing, it.bus.publish(n("x"), "k", Message(b"1"), timeout=9))
            await anyio.wait_all_tasks_blocked()  # they are on their way
            began = anyio.current_time()
            await it.bus.close()
        assert anyio.current_time() - began < 1.5  # a second of it for the goodbye that nobody answers
        assert await it.bus.wait_lost() == "closed by this client"


async def test_a_close_that_is_cancelled_closes_all_the_same(rabbit: RabbitMQ, n: Names):
    async with far(rabbit, n) as it:
        it.proxy.stall()
        with anyio.move_on_after(0.05) as scope:
            await it.bus.close()
        assert scope.cancelled_caught
        assert not it.bus.is_open
        it.proxy.resume()
        await it.left_nothing_behind()


async def test_who_waits_for_the_connection_is_woken_each_time(rabbit: RabbitMQ, n: Names):
    async with far(rabbit, n) as it:
        for _ in range(3):
            await it.bus.close()
            async with anyio.create_task_group() as tasks:
                for _ in range(3):
                    tasks.start_soon(it.bus.wait_open)
                    tasks.start_soon(send, it.bus, n, b"waited")
                await anyio.wait_all_tasks_blocked()
                await it.bus.open()
        await eventually(lambda: it.bus.stats.published == 9)
