"""What the broker refuses: one line that says what to do, quickly, and only to the one whose fault it is."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest
from anyio.abc import SocketAttribute, SocketStream

from fogactors.bus import Message
from fogactors.bus.amqp import AmqpBus
from fogactors.errors import AccessRefused, BusUnavailable, FogError, MessageTooLarge, QueueMissing, Unroutable
from tests.services import RabbitMQ

from .amqp_support import failing, far, quiet
from .support import Inbox, Names, eventually, send, work

pytestmark = [pytest.mark.services, pytest.mark.asyncio]


# -- connecting


async def refused(url: str) -> str:
    async with quiet():
        began = anyio.current_time()
        with pytest.raises(AccessRefused) as caught:
            await AmqpBus(url).open(timeout=10)
        assert anyio.current_time() - began < 2
        assert "\n" not in str(caught.value)
        return str(caught.value)


async def test_a_wrong_password_a_missing_virtual_host_and_no_permission_in_it(rabbit: RabbitMQ):
    assert "refuses user 'nobody': wrong name or password" in await refused(rabbit.amqp_url_for("nobody", "secret"))
    text = await refused(rabbit.amqp_url.replace("%2Ffog", "%2Fnone"))
    assert "has no virtual host '/none' for this user: " in text
    assert "vhost /none not found" in text
    await rabbit.api("PUT", "/api/vhosts/%2Fother")
    text = await refused((await rabbit.add_user("stranger")).replace("%2Ffog", "%2Fother"))
    assert "has no virtual host '/other' for this user: " in text
    assert "access to vhost '/other' refused" in text


async def test_a_full_broker_is_weather_and_no_mistake_of_ours(rabbit: RabbitMQ):
    await rabbit.api("PUT", "/api/vhosts/%2Ffull")
    url = await rabbit.add_user("crowd", vhost="/full")
    await rabbit.api("PUT", "/api/vhost-limits/%2Ffull/max-connections", {"value": 0})
    async with quiet():
        error, took = await failing(AmqpBus(url).open())
    assert "limit" in str(error)
    assert took < 2


async def test_tls_to_a_plain_port(rabbit: RabbitMQ):
    assert "does not speak TLS here" in await refused(rabbit.amqp_url.replace("amqp:", "amqps:"))


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n",
        b"AMQP\x00\x01\x00\x00",
        b"\x15\x03\x03\x00\x02\x02\x46",
    ],
    ids=["http", "other AMQP", "TLS alert"],
)
async def test_plain_amqp_to_something_else(answer: bytes):
    async def serve(stream: SocketStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(answer)

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serve)
        port = listener.extra(SocketAttribute.local_port)
        text = await refused(f"amqp://u:p@127.0.0.1:{port}/")
        tasks.cancel_scope.cancel()
    assert "does not speak plain AMQP 0-9-1" in text


async def test_one_host_that_refuses_among_others_does_not_decide_for_them(rabbit: RabbitMQ):
    async with quiet():
        wrong = rabbit.amqp_url_for("nobody", "secret")
        good = f"127.0.0.1:{rabbit.port}"
        error, _ = await failing(AmqpBus(wrong.replace(good, f"{good},127.0.0.1:1")).open())
        assert "wrong name or password" in str(error)
        assert "127.0.0.1:1: Connection refused" in str(error)
        with pytest.raises(AccessRefused, match=r"wrong name.*; .*wrong name"):
            await AmqpBus(wrong.replace(good, f"{good},{good}")).open()


# -- publishing on a channel that others share


async def everybody(bus: AmqpBus, n: Names, culprits: dict[str, tuple[str, str, Message]]) -> dict[str, list]:
    """Three rounds of twenty innocent publishes, with the culprits in the middle; how each ended."""
    outcomes: dict[str, list] = {name: [] for name in ("innocent", *culprits)}

    async def one(name: str, exchange: str, key: str, message: Message) -> None:
        try:
            await bus.publish(exchange, key, message, timeout=5)
        except FogError as error:
            outcomes[name].append(error)
        else:
            outcomes[name].append(None)

    for _ in range(3):
        async with anyio.create_task_group() as tasks:
            for number in range(20):
                if number == 10:
                    for name, culprit in culprits.items():
                        tasks.start_soon(one, name, *culprit)
                tasks.start_soon(one, "innocent", n("x"), "k", Message(b"fine"))
    return outcomes


async def test_a_channel_error_is_told_to_the_one_who_caused_it(rabbit: RabbitMQ, n: Names):
    async with far(rabbit, n, max_body=20 << 20) as it:
        large = Message(bytes(17 << 20))
        outcomes = await everybody(
            it.bus, n, {"missing": (n("none"), "k", Message(b"1")), "large": (n("x"), "k", large)}
        )
        assert [type(each) for each in outcomes["missing"]] == [Unroutable] * 3
        assert "there is no such exchange" in str(outcomes["missing"][0])
        assert [type(each) for each in outcomes["large"]] == [MessageTooLarge] * 3
        assert all(each.unsent is large for each in outcomes["large"])
        assert outcomes["innocent"] == [None] * 60
        assert it.bus.stats.connections == 1
        assert it.bus.is_open
        # Those that the error found unconfirmed were published again: more than once is possible, never is not.
        assert (await it.bus.inspect(n("q"))).ready >= 60


async def test_publishes_at_the_very_moment_the_channel_closes_do_not_cost_the_connection(rabbit: RabbitMQ, n: Names):
    async with far(rabbit, n) as it:
        failed = []

        async def culprit() -> None:
            try:
                await it.bus.publish(n("none"), "k", Message(b"1"))
            except Unroutable as error:
                failed.append(error)

        with anyio.fail_after(20):
            for _ in range(10):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(culprit)
                    told = len(failed)
                    while len(failed) == told:  # one in every turn of the loop
                        tasks.start_soon(send, it.bus, n, b"fine")
                        await anyio.lowlevel.checkpoint()
        assert (len(failed), it.bus.stats.connections, it.bus.is_open) == (10, 1, True)


async def test_a_missing_permission_is_told_to_the_one_who_lacks_it(rabbit: RabbitMQ, n: Names):
    async with far(rabbit, n) as it, quiet():
        url = await rabbit.add_user(n("user"), write=f"^{n.prefix}\\.x$", read=f"^{n.prefix}\\.q$")
        bus = AmqpBus(url)
        await bus.open()
        outcomes = await everybody(bus, n, {"refused": ("amq.topic", "k", Message(b"1"))})
        assert [type(each) for each in outcomes["refused"]] == [AccessRefused] * 3
        assert "write access to exchange 'amq.topic'" in str(outcomes["refused"][0])
        assert outcomes["innocent"] == [None] * 60
        assert bus.stats.connections == 1
        with pytest.raises(AccessRefused, match="configure access"):
            await bus.declare(work(Names()))
        with pytest.raises(AccessRefused, match="configure access"):
            await bus.open_exclusive(n("mine"), ())
        await it.bus.declare(work(other := Names()))
        with pytest.raises(AccessRefused, match="read access to queue"):
            await bus.consume(other("q"), Inbox(), prefetch=1)
        await send(bus, n, b"still fine")
        await bus.close()


async def test_what_amqp_has_no_room_for_is_refused_and_harms_nobody(rabbit: RabbitMQ, n: Names):
    async with far(rabbit, n) as it:
        long = "x" * 256
        for key, message in (
            (long, Message(b"")),
            ("k", Message(b"", correlation_id=long)),
            ("k", Message(b"", type=long)),
        ):
            with pytest.raises(Unroutable, match="cannot be written as AMQP"):
                await it.bus.publish(n("x"), key, message)
        await send(it.bus, n, b"fine")
        assert it.bus.stats.connections == 1


async def test_an_error_on_one_consumers_channel_is_nobody_elses(rabbit: RabbitMQ, n: Names):
    async with far(rabbit, n) as it:
        reasons, other, inbox, heir = list[str](), list[str](), Inbox(), Inbox()
        consumer = await it.bus.consume(n("q"), inbox, prefetch=5, priority=1, on_lost=reasons.append)
        await it.bus.consume(n("q"), heir, prefetch=5, on_lost=other.append)
        with pytest.raises(QueueMissing):
            await it.bus.consume(n("none"), Inbox(), prefetch=1, on_lost=other.append)
        await send(it.bus, n, b"1")
        held = await inbox.one()
        await consumer.channel.basic_ack(999)  # 406, as a consumer timeout of 4.0
        await eventually(lambda: len(reasons) == 1)
        assert "unknown delivery tag 999" in reasons[0]
        await held.ack()
        assert it.bus.stats.stale_settles == 1
        assert (await heir.one()).redelivered
        await consumer.close()
        await it.bus.consume(n("q"), inbox, prefetch=5, priority=1)
        await send(it.bus, n, b"2")
        assert (await inbox.one()).body == b"2"
        assert (len(reasons), other, it.bus.is_open) == (1, [], True)


async def test_a_broker_that_stops_answering_ends_every_question_in_time(rabbit: RabbitMQ, n: Names):
    async with far(rabbit, n) as it:
        it.proxy.stall()
        with anyio.fail_after(13):
            async with anyio.create_task_group() as tasks:
                for question in (
                    it.bus.inspect(n("q")),
                    it.bus.purge(n("q")),
                    it.bus.consume(n("q"), Inbox(), prefetch=1),
                    it.bus.open_exclusive("", ()),
                ):
                    tasks.start_soon(failing, question)
        with anyio.fail_after(0.1), pytest.raises(BusUnavailable, match=r"did not confirm|no connection|did not"):
            await it.bus.publish(n("x"), "k", Message(b""), timeout=0.01)
