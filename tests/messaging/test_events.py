"""The event bus: on the embedded broker and on RabbitMQ alike. What goes wrong is in `test_events_trouble.py`."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import anyio
import pytest
from msgspec import Struct

from fogactors.bus import Message
from fogactors.errors import ConfigError, MessageTooLarge, SpecError, TopologyMismatch, WireError
from fogactors.messaging import Event, EventBus, correlated, correlation_id
from fogactors.wire import Binding, Queue, Topology
from fogactors.wire.topology import EVENTS

from .conftest import OpenPlace, Place
from .support import Got, eventually, word

pytestmark = pytest.mark.asyncio


@asynccontextmanager
async def bus_at(place: Place, source: str = "shop", **options: Any) -> AsyncIterator[EventBus]:
    async with EventBus(place.url, source=source, **options) as bus:
        yield bus


# -- who gets what


async def test_each_group_gets_all_and_its_processes_share(open_place: OpenPlace):
    async with open_place() as place, bus_at(place) as publisher, bus_at(place, "a1") as a1, bus_at(place, "a2") as a2:
        s, got = word(), {"a1": Got(), "a2": Got(), "other": Got()}
        await a1.subscribe(f"{s}.print.#", got["a1"].hear, group="audit")
        await a2.subscribe(f"{s}.print.#", got["a2"].hear, group="audit")
        await a2.subscribe(f"{s}.#", got["other"].hear, group="other")
        for number in range(40):
            await publisher.publish(f"{s}.print.started", {"n": number})
        await publisher.publish(f"{s}.model.made", {"n": 40})
        await got["other"].wait(41)
        await eventually(lambda: len(got["a1"].all) + len(got["a2"].all) == 40, "the group has all")
        numbers = [event.data["n"] for name in ("a1", "a2") for event in got[name].all]
        assert sorted(numbers) == list(range(40))
        assert got["a1"].all
        assert got["a2"].all
        assert [event.data["n"] for event in got["other"].all] == list(range(41))


async def test_the_envelope_says_who_when_and_what(open_place: OpenPlace):
    async with open_place() as place, bus_at(place, "fabrication") as bus:
        s, got = word(), Got()
        await bus.subscribe(f"{s}.#", got.hear, group="audit")
        told = await bus.publish(f"{s}.print.started", {"job_id": "print_123"})
        (event,) = await got.wait(1)
        assert isinstance(event, Event)
        assert (event.event_type, event.source, event.data) == (
            f"{s}.print.started",
            "fabrication",
            {"job_id": "print_123"},
        )
        assert (event.event_id, event.timestamp, event.attempt) == (told.event_id, told.timestamp, 1)
        assert abs(event.timestamp - datetime.now(UTC)) < timedelta(minutes=1)
        assert event.timestamp.utcoffset() == timedelta(0)


async def test_what_happens_while_nobody_of_a_group_is_there_waits_for_it(open_place: OpenPlace):
    async with open_place() as place, bus_at(place) as publisher:
        s, got = word(), Got()
        async with bus_at(place, "audit") as bus:
            await bus.subscribe(f"{s}.#", got.hear, group="audit")
        await publisher.publish(f"{s}.print.started", 1)
        async with bus_at(place, "audit") as bus:
            subscription = await bus.subscribe(f"{s}.#", got.hear, group="audit")
            await got.wait(1)
            await subscription.unsubscribe()
            await publisher.publish(f"{s}.print.started", 2)
            assert len(got.all) == 1
            await bus.subscribe(f"{s}.#", got.hear, group="audit")
            await got.wait(2)
        assert [event.data for event in got.all] == [1, 2]


async def test_without_a_group_one_gets_what_happens_from_now_on(open_place: OpenPlace):
    async with open_place() as place, bus_at(place) as bus, bus_at(place) as other:
        s, got, also = word(), Got(), Got()
        await bus.publish(f"{s}.one", 1)  # nobody listens, which is no error
        subscription = await bus.subscribe(f"{s}.*", got.hear)
        await bus.subscribe(f"{s}.*", also.hear)
        await other.subscribe(f"{s}.*", also.hear)
        assert subscription.queue == ""
        await bus.publish(f"{s}.two", 2)
        await got.wait(1)
        await also.wait(2)
        await subscription.unsubscribe()
        await bus.publish(f"{s}.three", 3)
        await also.wait(4)
        assert [event.data for event in got.all] == [2]


async def test_a_declared_queue_is_read_as_it_is(open_place: OpenPlace):
    async with open_place() as place, bus_at(place) as bus:
        s, got = word(), Got()
        queue = f"{s}.audit"
        await bus.session.bus.declare(
            Topology(queues=(Queue(queue),), bindings=(Binding(EVENTS, f"{s}.print.#", queue),))
        )
        subscription = await bus.subscribe("#", got.hear, queue=queue)
        await bus.publish(f"{s}.model.made")
        await bus.publish(f"{s}.print.started")
        await got.wait(1)
        await subscription.unsubscribe(forget=True)  # not ours to delete
        assert (await bus.session.bus.inspect(queue)).ready == 0
        assert [(event.event_type, event.data) for event in got.all] == [(f"{s}.print.started", {})]


async def test_forgetting_a_group_deletes_its_queue(open_place: OpenPlace):
    async with open_place() as place, bus_at(place) as bus:
        s, got = word(), Got()
        subscription = await bus.subscribe(f"{s}.#", got.hear, group="audit")
        await bus.unsubscribe(subscription)
        await bus.publish(f"{s}.one", 1)
        subscription = await bus.subscribe(f"{s}.#", got.hear, group="audit")
        await got.wait(1)
        await bus.unsubscribe(subscription, forget=True)
        await bus.unsubscribe(subscription, forget=True)  # gone already
        await bus.publish(f"{s}.two", 2)
        await bus.subscribe(f"{s}.#", got.hear, group="audit")
        await bus.publish(f"{s}.three", 3)
        await got.wait(2)
        assert [event.data for event in got.all] == [1, 3]


# -- handlers


class Started(Struct):
    job_id: str
    layers: int = 0


@dataclass
class Made:
    at: datetime


async def test_data_is_what_the_handler_says_it_is(open_place: OpenPlace):
    async with open_place() as place, bus_at(place) as bus:
        s, got = word(), Got()

        async def on_started(event: Event[Started]) -> None:
            got.add(event.data)

        class Service:
            def on_made(self, event: Event[Made]) -> None:
                got.add(event.data)

        await bus.subscribe(f"{s}.print.started", on_started, group="audit")
        await bus.subscribe(f"{s}.model.made", Service().on_made, group="audit")
        await bus.subscribe(
            f"{s}.model.*", lambda event: got.add_from_thread(event.data), group="typed", data_type=Made
        )
        at = datetime(2026, 1, 2, tzinfo=UTC)
        await bus.publish(f"{s}.print.started", Started("print_123"))
        await got.wait(1)
        await bus.publish(f"{s}.model.made", Made(at))
        await got.wait(3)
        assert got.all == [Started("print_123"), Made(at), Made(at)]


async def test_a_plain_function_runs_in_a_thread_and_holds_up_nobody(open_place: OpenPlace):
    async with open_place() as place, bus_at(place) as bus:
        s, got, threads, go = word(), Got(), list[int](), threading.Event()

        def blocks(event: Event[Any]) -> None:
            threads.append(threading.get_ident())
            assert go.wait(10)
            got.add_from_thread(("blocked", event.data))

        await bus.subscribe(f"{s}.#", blocks, group="slow")
        await bus.subscribe(f"{s}.#", got.hear, group="quick")
        await bus.publish(f"{s}.one", 1)
        await got.wait(1)
        go.set()
        await got.wait(2)
        assert got.all[1] == ("blocked", 1)
        assert threads[0] != threading.get_ident()


async def test_whatever_can_be_called_with_an_event_is_a_handler():
    async with EventBus(f"memory://{word()}", source="shop") as bus:
        got = Got()

        async def named(name: str, event: Event[Any]) -> None:
            got.add(name)

        class Counts:
            async def __call__(self, event: Event[int]) -> None:
                got.add(event.data)

        await bus.subscribe("a.partial", partial(named, "partial"))
        await bus.subscribe("a.lambda", lambda event: named("lambda", event))
        await bus.subscribe("a.object", Counts())
        for name in ("partial", "lambda", "object"):
            await bus.publish(f"a.{name}", 7)
        await got.wait(3)
        assert set(got.all) == {"partial", "lambda", 7}


async def test_one_at_a_time_in_order_or_several_at_once(open_place: OpenPlace):
    async with open_place() as place, bus_at(place) as bus:
        s, got = word(), Got()
        running, most = {"one": 0, "many": 0}, {"one": 0, "many": 0}
        five = anyio.Event()

        def handler(name: str) -> Any:
            async def handle(event: Event[int]) -> None:
                running[name] += 1
                most[name] = max(most[name], running[name])
                if running["many"] == 5:
                    five.set()
                await (five.wait() if name == "many" else anyio.sleep(0.01))
                running[name] -= 1
                got.add((name, event.data))

            return handle

        await bus.subscribe(f"{s}.#", handler("one"), group="one")
        await bus.subscribe(f"{s}.#", handler("many"), group="many", concurrency=5)
        for number in range(20):
            await bus.publish(f"{s}.one", number)
        await got.wait(40)
        assert most == {"one": 1, "many": 5}
        assert [number for name, number in got.all if name == "one"] == list(range(20))


async def test_a_conversation_flows_through_handlers_by_itself(open_place: OpenPlace):
    async with open_place() as place, bus_at(place) as bus:
        s, got = word(), Got()
        heard: list[str | None] = []

        async def first(event: Event[Any]) -> None:
            async with anyio.create_task_group() as tasks:  # and into what a handler starts
                tasks.start_soon(bus.publish, f"{s}.second", event.data)

        def second(event: Event[Any]) -> None:
            heard.append(correlation_id())
            anyio.from_thread.run(bus.publish, f"{s}.third", event.data)

        await bus.subscribe(f"{s}.first", first, group="a")
        await bus.subscribe(f"{s}.second", second, group="a")
        await bus.subscribe(f"{s}.#", got.hear, group="all")
        begun = await bus.publish(f"{s}.first", "alone")
        one, two, three = await got.wait(3)
        assert begun.correlation_id == begun.event_id
        assert {one.correlation_id, two.correlation_id, three.correlation_id} == {begun.event_id}
        assert [one.causation_id, two.causation_id, three.causation_id] == [None, one.event_id, two.event_id]
        with correlated("request-7"):
            assert (await bus.publish(f"{s}.first", "asked")).correlation_id == "request-7"
        told = await got.wait(6)
        assert {event.correlation_id for event in told[3:]} == {"request-7"}
        assert heard == [begun.event_id, "request-7"]
        assert correlation_id() is None


# -- duplicates


@pytest.mark.parametrize("concurrency", [1, 4])
async def test_the_same_event_is_handled_once_per_group(open_place: OpenPlace, concurrency: int):
    async with open_place() as place, bus_at(place) as bus:
        s, got, other = word(), Got(), Got()

        async def slow(event: Event[Any]) -> None:
            await anyio.sleep(0.02)
            got.add(event)

        subscription = await bus.subscribe(f"{s}.#", slow, group="a", concurrency=concurrency)
        await bus.subscribe(f"{s}.#", other.hear, group="b")
        for _ in range(3):
            await bus.publish(f"{s}.one", event_id=f"{s}-1")
        await bus.publish(f"{s}.one", event_id=f"{s}-2")
        await eventually(lambda: subscription.stats.duplicates == 2, "two duplicates are counted")
        await got.wait(2)
        await other.wait(2)
        assert [[event.event_id for event in each.all] for each in (got, other)] == [[f"{s}-1", f"{s}-2"]] * 2
        assert subscription.stats.handled == 2


async def test_with_a_store_the_processes_of_a_group_know_of_each_other(open_place: OpenPlace):
    async with open_place() as place:
        s, got = word(), Got()
        for process in ("one", "two"):
            async with bus_at(place, process, store=place.store) as bus:
                subscription = await bus.subscribe(f"{s}.#", got.hear, group="audit")
                await bus.publish(f"{s}.one", event_id=f"{s}-1")
                stats = subscription.stats
                await eventually(lambda stats=stats: stats.handled + stats.duplicates == 1, "it has come")
        async with bus_at(place, "knows nobody") as bus:
            await bus.subscribe(f"{s}.#", got.hear, group="audit")
            await bus.publish(f"{s}.one", event_id=f"{s}-1")
            await got.wait(2)
        assert len(got.all) == 2


async def test_without_a_window_no_duplicate_is_dropped(open_place: OpenPlace):
    async with open_place() as place, bus_at(place, dedup_window_s=0) as bus:
        s, got = word(), Got()
        await bus.subscribe(f"{s}.#", got.hear, group="audit")
        for _ in range(2):
            await bus.publish(f"{s}.one", event_id=f"{s}-1")
        await got.wait(2)


# -- what is refused


async def test_what_is_wrong_is_said_at_once(open_place: OpenPlace):
    async with open_place() as place, bus_at(place, max_body=500) as bus:
        s, got = word(), Got()
        for wrong in ("", "a..b", "a b", "a.*", "#"):
            with pytest.raises(ConfigError, match="event's type"):
                await bus.publish(wrong)
        with pytest.raises(WireError, match="no JSON form"):
            await bus.publish(f"{s}.one", object())
        with pytest.raises(MessageTooLarge):
            await bus.publish(f"{s}.one", "x" * 500)
        for pattern in ("", "a..b", "a.#b"):
            with pytest.raises(ConfigError, match="pattern"):
                await bus.subscribe(pattern, got.hear, group="a")
        with pytest.raises(ConfigError, match="group"):
            await bus.subscribe(f"{s}.#", got.hear, group="a.b")
        with pytest.raises(ConfigError, match="cannot handle events"):
            await bus.subscribe(f"{s}.#", lambda: None, group="a")  # pyright: ignore[reportArgumentType]
        with pytest.raises(ConfigError, match="concurrency"):
            await bus.subscribe(f"{s}.#", got.hear, group="a", concurrency=0)
        with pytest.raises(ConfigError, match="may wait 2000 s"):
            await bus.subscribe(f"{s}.#", got.hear, group="a", timeout=200)
        await bus.subscribe(f"{s}.#", got.hear, group="a")
        with pytest.raises(SpecError, match="reads events"):
            await bus.subscribe(f"{s}.#", got.hear, group="a")


async def test_an_exchange_that_is_not_there_is_named(open_place: OpenPlace):
    async with open_place() as place:
        with pytest.raises(TopologyMismatch, match=r"no exchange kitty\.nothing"):
            async with bus_at(place, exchange="kitty.nothing"):
                raise AssertionError
        for wrong in ({"source": ""}, {"dedup_window_s": -1}, {"store": "http://x"}):
            with pytest.raises(ConfigError):
                async with EventBus(place.url, **{"source": "shop", **wrong}):
                    raise AssertionError
        with pytest.raises(RuntimeError, match="not open"):
            await EventBus(place.url, source="shop").publish("a.b")


async def test_a_foreign_event_needs_no_more_than_the_required_fields(open_place: OpenPlace):
    async with open_place() as place, bus_at(place) as bus:
        s, got = word(), Got()
        await bus.subscribe(f"{s}.#", got.hear, group="audit")
        body = (
            b'{"schema":"event/1","event_id":"e-1","event_type":"' + s.encode() + b'.one","source":"shell","new":[1],'
            b'"timestamp":"2025-11-16T12:00:00Z"}'
        )
        await bus.session.bus.publish(EVENTS, f"{s}.one", Message(body))
        (event,) = await got.wait(1)
        assert (event.source, event.data, event.correlation_id) == ("shell", {}, None)
