"""Stops and starts that something comes in between: a connection that breaks, an error, a cancellation, each other."""

from __future__ import annotations

from functools import partial
from typing import Any

import anyio
import pytest

from fogactors.core import ActorExited, Events
from fogactors.errors import AskTimeout, BusUnavailable, CallLost, NoSuchService, QueueMissing
from fogactors.messaging import EventBus, RPCClient, RPCServer, Session, TaskQueue, embedded_broker
from fogactors.messaging.subscriber import DRAIN_S
from fogactors.messaging.taskqueue import WORKER
from fogactors.testing import EventRecorder
from fogactors.wire import Topology
from fogactors.wire.work import work_queue

from .conftest import OpenPlace
from .support import DEADLINE_S, Got, eventually, word

pytestmark = pytest.mark.asyncio


def is_stopping(session: Session, id_: str) -> bool:
    nodes = list(session.actors.tree())
    for node in nodes:
        nodes.extend(node.children)
    return any(node.id == id_ and node.state == "stopping" for node in nodes)


async def lies_there(session: Session, queue: str, count: int) -> bool:
    info = await session.bus.inspect(queue)
    return (info.ready, info.consumers) == (count, 0)


class Hangs:
    """A handler that never ends, of events and of tasks."""

    def __init__(self) -> None:
        self.got = Got()

    async def hear(self, item: Any) -> None:
        self.got.add(item.data)
        await anyio.sleep_forever()


# -- a connection that breaks


async def test_a_subscription_that_ends_while_the_connection_breaks_is_over(open_place: OpenPlace):
    async with open_place() as place, EventBus(place.url, source="shop", events=Events()) as bus:
        s, hangs, recorder = word(), Hangs(), EventRecorder(bus.session.events)
        subscription = await bus.subscribe(f"{s}.#", hangs.hear, group="a")
        await bus.publish(f"{s}.one", 1)
        await hangs.got.wait(1)
        with anyio.fail_after(DRAIN_S - 1):  # the loss ends its drain: nothing could be settled any more
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(subscription.unsubscribe)
                await eventually(lambda: is_stopping(bus.session, subscription.id), "it drains")
                place.cut()
                await recorder.wait_for(ActorExited, path="shop/link")
            await bus.publish(f"{s}.two", 2)
        await eventually(partial(lies_there, bus.session, subscription.queue, 2), "nobody reads it")
        assert hangs.got.all == [1]
        again = Got()
        await bus.subscribe(f"{s}.#", again.hear, group="a")
        await again.wait(2)


async def test_a_worker_that_stops_while_the_connection_breaks_has_stopped(open_place: OpenPlace):
    async with open_place() as place, TaskQueue(place.url, word(), store=place.store, events=Events()) as queue:
        hangs, recorder = Hangs(), EventRecorder(queue.session.events)
        queue.register_handler("t", hangs.hear)
        await queue.start(drain_s=DEADLINE_S)
        await queue.submit("t", 1)
        await hangs.got.wait(1)
        with anyio.fail_after(DEADLINE_S - 1):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(queue.stop)
                await eventually(lambda: is_stopping(queue.session, WORKER), "it drains")
                place.cut()
                await recorder.wait_for(ActorExited, where=lambda each: each.path.endswith("/link"))
            await queue.submit("t", 2)
        await eventually(partial(lies_there, queue.session, work_queue(queue.name), 2), "nobody works")
        assert hangs.got.all == [1]
        await queue.start(drain_s=0)  # it has stopped, so it can


async def test_a_server_that_stops_while_the_connection_breaks_holds_up_nobody(open_place: OpenPlace):
    async with open_place() as place, Session.open(place.url, "shop") as session:
        began, recorder, name = anyio.Event(), EventRecorder(session.events), word()
        async with RPCServer(session, name, drain_s=DEADLINE_S) as server, RPCClient(session) as client:

            @server.handler
            async def hangs(request: int) -> None:
                began.set()
                await anyio.sleep_forever()

            await server.start()
            async with anyio.create_task_group() as tasks:

                async def call() -> None:
                    with pytest.raises(CallLost):
                        await client.call(name, 1)

                tasks.start_soon(call)
                await began.wait()
                with anyio.fail_after(DEADLINE_S - 1):
                    tasks.start_soon(server.stop)
                    await eventually(lambda: is_stopping(session, f"rpc-server-{name}"), "it drains")
                    place.cut()
                    await recorder.wait_for(ActorExited, path="shop/link")
                    await session.bus.wait_open()
            with pytest.raises(NoSuchService):
                await client.call(name, 1, timeout=DEADLINE_S)


# -- each other


async def test_on_leaving_all_subscriptions_come_to_their_end_at_the_same_time(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("fogactors.messaging.subscriber.DRAIN_S", 2.0)
    url, hangs = f"memory://{word()}", Hangs()
    async with EventBus(url, source="shop", events=Events()) as bus:
        for number in range(4):
            await bus.subscribe(f"{number}.#", hangs.hear, group="a")
            await bus.publish(f"{number}.one")
        await hangs.got.wait(4)
        began = anyio.current_time()
    assert anyio.current_time() - began < 6
    assert [each.ready for each in embedded_broker(url).depths().values() if each.ready] == [1] * 4
    assert len(hangs.got.all) == 4


# -- an error


async def test_an_unsubscribe_that_failed_is_repeated_and_does_what_is_left(monkeypatch: pytest.MonkeyPatch):
    async with EventBus(f"memory://{word()}", source="shop", events=Events()) as bus:
        s, got, deletes = word(), Got(), list[str]()
        delete = bus.session.bus.delete

        async def fails_once(queue: str) -> None:
            deletes.append(queue)
            if len(deletes) == 1:
                raise BusUnavailable("as asked")
            await delete(queue)

        monkeypatch.setattr(bus.session.bus, "delete", fails_once)
        subscription = await bus.subscribe(f"{s}.#", got.hear, group="a")
        with pytest.raises(BusUnavailable, match="as asked"):
            await subscription.unsubscribe(forget=True)
        for _ in range(2):  # then it is over
            await subscription.unsubscribe(forget=True)
        assert deletes == [subscription.queue] * 2
        with pytest.raises(QueueMissing):
            await bus.session.bus.inspect(subscription.queue)


async def test_an_unsubscribe_that_is_repeated_leaves_a_group_alone_that_has_come_back(
    monkeypatch: pytest.MonkeyPatch,
):
    async with EventBus(f"memory://{word()}", source="shop", events=Events()) as bus:
        s, got = word(), Got()

        async def refuses(queue: str) -> None:
            raise BusUnavailable("as asked")

        subscription = await bus.subscribe(f"{s}.#", got.hear, group="a")
        with monkeypatch.context() as patch:
            patch.setattr(bus.session.bus, "delete", refuses)
            with pytest.raises(BusUnavailable):
                await subscription.unsubscribe(forget=True)
        await bus.subscribe(f"{s}.#", got.hear, group="a")
        await subscription.unsubscribe(forget=True)
        await bus.publish(f"{s}.one")
        await got.wait(1)


async def test_a_stop_that_got_no_answer_is_an_error_and_can_be_repeated(monkeypatch: pytest.MonkeyPatch):
    async with TaskQueue(f"memory://{word()}", "t", events=Events()) as queue:
        hangs = Hangs()
        queue.register_handler("t", hangs.hear)
        await queue.start(drain_s=0)

        async def no_answer(id_: str, *, drain_s: float = 0.0) -> None:
            raise AskTimeout("as asked")

        with monkeypatch.context() as patch:
            patch.setattr(queue.session, "stop", no_answer)
            with pytest.raises(AskTimeout):
                await queue.stop()
        await queue.submit("t", 1)
        await hangs.got.wait(1)  # so it was right to say so
        for _ in range(2):  # then it works no more
            await queue.stop()
        await queue.submit("t", 2)
        await queue.start(drain_s=0)
        await hangs.got.wait(2)


# -- a cancellation


async def test_a_subscribe_that_is_cancelled_has_not_subscribed(monkeypatch: pytest.MonkeyPatch):
    async with EventBus(f"memory://{word()}", source="shop", events=Events()) as bus:
        s, got, asked, go = word(), Got(), anyio.Event(), anyio.Event()
        declare = bus.session.bus.declare

        async def slow(topology: Topology) -> None:
            await declare(topology)
            asked.set()
            await go.wait()

        async def subscribe() -> None:
            await bus.subscribe(f"{s}.#", got.hear, group="a")

        monkeypatch.setattr(bus.session.bus, "declare", slow)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(subscribe)
            await asked.wait()
            tasks.cancel_scope.cancel()
        go.set()
        await bus.publish(f"{s}.one", 1)
        info = await bus.session.bus.inspect(f"events.a.{s}.#")
        assert (info.ready, info.consumers) == (1, 0)
        assert got.all == []
        await subscribe()
        assert [event.data for event in await got.wait(1)] == [1]
