"""The session: on the embedded broker and on RabbitMQ alike."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import Any
from uuid import uuid4

import anyio
import pytest
from anyio.abc import TaskStatus

from fogactors.bus import Bus, Delivery, MemoryBus, Message
from fogactors.core import Actor, ActorExited, ActorStarted, ChildSpec, Exit, RestartFailed, SupervisorPaused
from fogactors.errors import (
    ActorError,
    AskTimeout,
    BusUnavailable,
    ConfigError,
    MessageTooLarge,
    QueueMissing,
    SpecError,
)
from fogactors.messaging import Session, embedded_broker
from fogactors.testing import EventRecorder
from fogactors.wire import Binding, Queue, Topology
from fogactors.wire.topology import EVENTS

from .conftest import OpenPlace
from .support import DEADLINE_S, Got, eventually

pytestmark = pytest.mark.asyncio


class Reader(Actor[Any]):
    """Consumes a queue, as long as it lives. `door`: held while it asks for the queue."""

    def __init__(self, bus: Bus, queue: str, got: Got, door: anyio.Lock | None = None) -> None:
        self._bus, self._queue, self._got, self._door = bus, queue, got, door or anyio.Lock()

    async def on_start(self) -> None:
        async with self._door:
            self._consumer = await self._bus.consume(self._queue, self._take, prefetch=10)

    async def on_stop(self, exit: Exit) -> None:  # noqa: A002
        await self._consumer.close()

    def _take(self, delivery: Delivery) -> None:
        with suppress(ActorError):  # ending
            self.ctx.mailbox.put_nowait(delivery)

    async def handle(self, message: Any) -> None:
        if message == "crash":
            raise RuntimeError("as asked")
        await message.ack()
        self._got.add(message.body)


def reader(
    session: Session,
    queue: str,
    got: Got,
    id: str = "reader",  # noqa: A002
    door: anyio.Lock | None = None,
) -> ChildSpec:
    return ChildSpec(id=id, factory=lambda: Reader(session.bus, queue, got, door))


class Drainer(Reader):
    """Takes until it is let go to stop."""

    def __init__(self, bus: Bus, queue: str, got: Got, go: anyio.Event) -> None:
        super().__init__(bus, queue, got)
        self._go = go

    async def on_stop(self, exit: Exit) -> None:  # noqa: A002
        await self._go.wait()
        await super().on_stop(exit)


class Slow(Actor[Any]):
    """Comes up when it is let to."""

    def __init__(self, starting: anyio.Event, go: anyio.Event) -> None:
        self._starting, self._go = starting, go

    async def on_start(self) -> None:
        self._starting.set()
        await self._go.wait()


async def bound(session: Session) -> str:
    """A queue of this test's own, behind its name as the key."""
    name = f"t.{uuid4().hex[:8]}"
    await session.bus.declare(Topology(queues=(Queue(name),), bindings=(Binding(EVENTS, name, name),)))
    return name


async def lies_there(session: Session, queue: str, count: int) -> bool:
    info = await session.bus.inspect(queue)
    return (info.ready, info.consumers) == (count, 0)


async def test_what_uses_the_connection_comes_back_with_it(open_place: OpenPlace):
    async with open_place() as place, Session.open(place.url, "shop") as session:
        recorder, got, queue = EventRecorder(session.events), Got(), await bound(session)
        ref = await session.start(reader(session, queue, got))
        for number in (1, 2, 3):
            await recorder.wait_for(ActorStarted, path=ref.path, count=number)
            await session.publish(EVENTS, queue, Message(b"%d" % number))
            # What was not acked by the time of the cut comes again, so it is not counted.
            await eventually(lambda body=b"%d" % number: body in got.all, "it has come")
            place.cut()
        assert ref.path == "shop/reader/reader"


async def test_a_publish_waits_for_a_broker_that_is_away_for_a_moment(open_place: OpenPlace):
    async with open_place() as place, Session.open(place.url, "shop") as session:
        got, queue = Got(), await bound(session)
        await session.start(reader(session, queue, got))
        place.down()
        await eventually(lambda: not session.bus.is_open, "the connection is lost")
        with pytest.raises(BusUnavailable):
            await session.publish(EVENTS, queue, Message(b"too late"), timeout=0.1)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(session.publish, EVENTS, queue, Message(b"1"))
            place.up()
        await got.wait(1)
        assert got.all == [b"1"]


async def test_what_fails_in_one_child_reaches_no_other(open_place: OpenPlace):
    async with open_place() as place, Session.open(place.url, "shop") as session:
        recorder, first, second = EventRecorder(session.events), Got(), Got()
        ref = await session.start(reader(session, await bound(session), first, "first"))
        queue = await bound(session)
        other = await session.start(reader(session, queue, second, "second"))
        for crashes in range(5):
            await recorder.wait_for(ActorStarted, path=ref.path, count=crashes + 1)
            await ref.tell("crash")
        await recorder.wait_for(SupervisorPaused, child="first")  # beyond the restart intensity
        await session.publish(EVENTS, queue, Message(b"still here"))
        await second.wait(1)
        assert len(recorder.of(ActorStarted, other.path)) == 1


async def test_what_cannot_come_back_after_a_reconnect_keeps_no_other_away(open_place: OpenPlace):
    async with open_place() as place, Session.open(place.url, "shop") as session:
        recorder, names = EventRecorder(session.events), ("mine", "second", "third")
        queues, gots, door = [await bound(session) for _ in names], [Got() for _ in names], anyio.Lock()
        refs = [await session.start(reader(session, *each, door)) for each in zip(queues, gots, names, strict=True)]
        await session.bus.delete(queues[0])
        place.cut()
        for ref, queue, got in list(zip(refs, queues, gots, strict=True))[1:]:
            await recorder.wait_for(ActorStarted, path=ref.path, count=2)
            await session.publish(EVENTS, queue, Message(b"still here"))
            await got.wait(1)
        await recorder.wait_for(RestartFailed, path=refs[0].path)
        async with door:  # RabbitMQ ends the connection of whoever consumes from a quorum queue that is being made
            await session.bus.declare(Topology(queues=(Queue(queues[0]),), bindings=(Binding(EVENTS, "m", queues[0]),)))
        await recorder.wait_for(ActorStarted, path=refs[0].path, count=2, timeout=DEADLINE_S)
        await session.stop("mine")
        assert [len(recorder.of(ActorStarted, ref.path)) for ref in refs] == [2, 2, 2]


async def test_what_is_stopped_while_the_connection_breaks_does_not_come_back(open_place: OpenPlace):
    async with open_place() as place, Session.open(place.url, "shop") as session:
        recorder, got, other, go = EventRecorder(session.events), Got(), Got(), anyio.Event()
        queue = await bound(session)
        spec = ChildSpec(id="drainer", factory=lambda: Drainer(session.bus, queue, got, go), shutdown_s=DEADLINE_S)
        ref = await session.start(spec)
        beside = await session.start(reader(session, await bound(session), other))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(session.stop, "drainer")
            await eventually(lambda: not ref.is_alive, "it is being stopped")
            place.cut()
            await recorder.wait_for(ActorExited, path="shop/link")
            go.set()
        await recorder.wait_for(ActorStarted, path=beside.path, count=2)
        await session.publish(EVENTS, queue, Message(b"1"))
        await eventually(partial(lies_there, session, queue, 1), "nobody reads it")
        assert len(recorder.of(ActorStarted, ref.path)) == 1
        await session.start(reader(session, queue, got, "drainer"))  # its place is free
        await got.wait(1)


async def test_several_stop_at_the_same_time_and_keep_no_other_from_coming_and_going(open_place: OpenPlace):
    async with open_place() as place, Session.open(place.url, "shop") as session:
        got, go = Got(), anyio.Event()
        for number in range(3):
            factory = partial(Drainer, session.bus, await bound(session), got, go)
            await session.start(ChildSpec(id=f"{number}", factory=factory, shutdown_s=DEADLINE_S))
        async with anyio.create_task_group() as tasks:
            for number in range(3):
                tasks.start_soon(session.stop, f"{number}")
            refs = [session.actors.ref(f"shop/{number}/{number}") for number in range(3)]
            await eventually(lambda: not any(ref.is_alive for ref in refs), "all are being stopped")
            await session.start(reader(session, await bound(session), got))
            await session.stop("reader")
            go.set()


async def test_a_start_that_is_cancelled_has_started_nothing(open_place: OpenPlace):
    async with open_place() as place, Session.open(place.url, "shop") as session:
        recorder, starting, go = EventRecorder(session.events), anyio.Event(), anyio.Event()
        slow = ChildSpec(id="slow", factory=lambda: Slow(starting, go), start_s=DEADLINE_S)
        got, queue = Got(), await bound(session)
        await session.start(reader(session, queue, got))
        with anyio.fail_after(DEADLINE_S / 2):  # it is not waited for
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(session.start, slow)
                await starting.wait()
                tasks.start_soon(session.start, reader(session, queue, got))  # another's place, and not read yet
                await anyio.wait_all_tasks_blocked()
                tasks.cancel_scope.cancel()
        assert [each.id for each in session.actors.tree()[0].children] == ["link", "reader"]
        go.set()
        ref = await session.start(slow)
        assert len(recorder.of(ActorStarted, ref.path)) == 1
        await session.publish(EVENTS, queue, Message(b"1"))
        await got.wait(1)


async def test_a_start_whose_time_is_over_has_started_nothing(monkeypatch: pytest.MonkeyPatch):
    async with Session.open(f"memory://{uuid4().hex[:8]}", "shop") as session:
        starting, go = anyio.Event(), anyio.Event()
        slow = ChildSpec(id="slow", factory=lambda: Slow(starting, go), start_s=DEADLINE_S)
        monkeypatch.setattr("fogactors.messaging.session.ORDER_S", 0.1)
        with pytest.raises(AskTimeout):
            await session.start(slow)
        assert starting.is_set()
        assert [each.id for each in session.actors.tree()[0].children] == ["link"]


async def test_a_child_that_does_not_come_up_is_an_error_and_not_tried_again(open_place: OpenPlace):
    async with open_place() as place, Session.open(place.url, "shop") as session:
        with pytest.raises(QueueMissing):
            await session.start(reader(session, f"t.{uuid4().hex[:8]}", Got()))
        got, queue = Got(), await bound(session)
        await session.start(reader(session, queue, got))
        with pytest.raises(SpecError, match="reader"):
            await session.start(reader(session, queue, got))
        await session.stop("reader")
        with pytest.raises(ActorError, match="reader"):
            await session.stop("reader")
        await session.publish(EVENTS, queue, Message(b"1"))
        info = await session.bus.inspect(queue)
        assert (info.ready, info.consumers) == (1, 0)


async def test_the_bodys_own_error_leaves_as_it_is(open_place: OpenPlace):
    async with open_place() as place:
        with pytest.raises(ZeroDivisionError):
            async with Session.open(place.url, "shop"):
                raise ZeroDivisionError
        with anyio.move_on_after(0) as scope:
            async with Session.open(place.url, "shop"):
                await anyio.sleep_forever()
        assert scope.cancelled_caught


async def test_a_body_over_the_limit_is_refused_and_a_republish_has_room(open_place: OpenPlace):
    async with open_place() as place, Session.open(place.url, "shop", max_body=100) as session:
        queue = await bound(session)
        with pytest.raises(MessageTooLarge, match="101 bytes"):
            await session.publish(EVENTS, queue, Message(b"x" * 101))
        await session.bus.publish(EVENTS, queue, Message(b"x" * 200))
        assert (await session.bus.inspect(queue)).ready == 1


async def test_a_broker_that_is_away_at_the_start_is_waited_for(open_place: OpenPlace):
    async with open_place() as place:
        place.down()
        with pytest.raises(BusUnavailable, match=r"waited 0\.2 s"):
            async with Session.open(place.url, "shop", timeout=0.2):
                raise AssertionError("there is no broker")
        opened = anyio.Event()

        async def connect() -> None:
            async with Session.open(place.url, "shop"):
                opened.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(connect)
            place.up()
        assert opened.is_set()


async def test_a_start_without_a_broker_is_an_error_in_time(open_place: OpenPlace):
    async with open_place() as place, Session.open(place.url, "shop") as session:
        queue = await bound(session)
        place.down()
        await eventually(lambda: not session.bus.is_open, "the connection is lost")
        with pytest.raises(BusUnavailable, match="reader needs the broker"):
            await session.start(reader(session, queue, Got()), timeout=0.1)
        place.up()
        await session.start(reader(session, queue, Got()))


async def test_what_is_no_url_is_refused():
    with pytest.raises(ConfigError, match="begins with"):
        async with Session.open("http://shop", "shop"):
            raise AssertionError


# -- the broker in this process


async def test_sessions_share_the_broker_of_a_name_and_it_outlives_them():
    url = f"memory://{uuid4().hex[:8]}"
    async with Session.open(url, "one") as one:
        queue = await bound(one)
        await one.publish(EVENTS, queue, Message(b"1"))
    async with Session.open(url, "two") as two, Session.open(f"{url}-other", "three") as three:
        assert (await two.bus.inspect(queue)).ready == 1
        with pytest.raises(QueueMissing):
            await three.bus.inspect(queue)
    with pytest.raises(BusUnavailable, match="does not run"):
        await MemoryBus(embedded_broker(url)).open()


async def test_the_broker_runs_on_when_who_opened_it_first_leaves_first():
    """Delays pass, whoever runs its loop."""
    url = f"memory://{uuid4().hex[:8]}"
    left = anyio.Event()

    async def first(*, task_status: TaskStatus[None]) -> None:
        async with Session.open(url, "first"):
            task_status.started()
            await left.wait()

    async with anyio.create_task_group() as tasks:
        await tasks.start(first)
        async with Session.open(url, "second") as second:
            queue = await bound(second)
            await second.publish("retry.1", queue, Message(b"in a second"))
            left.set()
            await eventually(lambda: embedded_broker(url).depths()[queue].ready == 1, "the delay is over")
