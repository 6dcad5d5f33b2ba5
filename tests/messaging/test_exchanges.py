"""Events and calls over exchanges that an application has declared, and a queue of its own: on both brokers alike."""

from __future__ import annotations

from typing import Any

import pytest

from fogactors.errors import BusError, NoSuchService
from fogactors.messaging import Event, EventBus, RPCClient, RPCServer, Session
from fogactors.wire import Binding, Exchange, Queue, Topology

from .conftest import OpenPlace, Place
from .support import Got, word

pytestmark = pytest.mark.asyncio


async def declare(place: Place, topology: Topology) -> None:
    async with Session.open(place.url, "declares") as session:
        await session.bus.declare(topology)


async def test_a_declared_queue_is_read_by_who_names_it(open_place: OpenPlace):
    own = word()
    events, queue = f"{own}.events", f"{own}.audit"
    topology = Topology((Exchange(events, "topic"),), (Queue(queue),), (Binding(events, f"{own}.#", queue),))
    got = Got()
    async with open_place() as place:
        await declare(place, topology)
        async with EventBus(place.url, source="test", exchange=events) as bus:
            await bus.publish(f"{own}.a", {"n": 1})  # nobody reads yet
            await bus.subscribe("#", got.hear, queue=queue)
            await bus.subscribe(f"{own}.*", got.hear, group=own)
            await bus.publish(f"{own}.b", {"n": 2})
            kinds = sorted(event.event_type for event in await got.wait(3))
            assert kinds == [f"{own}.a", f"{own}.b", f"{own}.b"]
        async with EventBus(place.url, source="test") as other:
            heard = Got()
            await other.subscribe(f"{own}.#", heard.hear)
            await tell(place, events, f"{own}.elsewhere")
            await other.publish(f"{own}.here")
            assert [event.event_type for event in await heard.wait(1)] == [f"{own}.here"]


async def tell(place: Place, exchange: str, event_type: str) -> Event[Any]:
    async with EventBus(place.url, source="test", exchange=exchange) as bus:
        return await bus.publish(event_type)


async def test_calls_go_over_the_exchange_that_both_name(open_place: OpenPlace):
    own = word()
    calls, service = f"{own}.calls", f"{own}.add"

    async def add(a: int, b: int) -> int:
        return a + b

    async with open_place() as place:
        await declare(place, Topology((Exchange(calls, "direct"),)))
        async with (
            RPCServer(place.url, service, exchange=calls) as server,
            RPCClient(place.url, exchange=calls) as client,
            RPCClient(place.url) as elsewhere,
        ):
            server.register_handler(add)
            await server.start()
            assert await client.call(service, {"a": 2, "b": 3}, returns=int) == 5
            with pytest.raises(NoSuchService):
                await elsewhere.call(service, {"a": 2, "b": 3})


async def test_an_exchange_that_is_not_there_is_told_at_once(open_place: OpenPlace):
    async with open_place() as place:
        with pytest.raises(BusError, match="nowhere"):
            async with RPCClient(place.url, exchange="nowhere"):
                raise AssertionError("it opened")
        async with RPCServer(place.url, f"{word()}.add", exchange="nowhere") as server:
            server.register_handler(repr)
            with pytest.raises(BusError, match="nowhere"):
                await server.start()
