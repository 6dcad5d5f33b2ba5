"""The event bus without asyncio: on the embedded broker and on RabbitMQ alike."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from fogactors import RetryPolicy
from fogactors.errors import BusUnavailable, ConfigError, MessageTooLarge, TopologyMismatch, WireError
from fogactors.messaging.blocking import Event, EventBus, correlated, correlation_id
from fogactors.wire import Policy, Queue

from .conftest import Place
from .support import Heard, Worker, assert_one_line, eventually, word


@contextmanager
def bus_at(place: Place, source: str = "shop", **options: Any) -> Iterator[EventBus]:
    with EventBus(place.url, source, **options) as bus:
        yield bus


def test_connect_publish_subscribe_disconnect(place: Place):
    s, heard = word(), Heard()
    bus = EventBus(place.url, source="fabrication-service")
    bus.connect()
    bus.connect()  # it is
    bus.subscribe(f"{s}.print.#", heard.add)
    told = bus.publish(f"{s}.print.started", {"job_id": "print_123"})
    (event,) = heard.wait(1)
    assert (event.event_type, event.source, event.data) == (
        f"{s}.print.started",
        "fabrication-service",
        {"job_id": "print_123"},
    )
    assert (event.event_id, event.timestamp, event.attempt) == (told.event_id, told.timestamp, 1)
    assert bus.is_connected
    bus.disconnect()
    bus.disconnect()  # it is
    assert not bus.is_connected
    bus.connect()  # once more
    assert bus.publish(f"{s}.print.ended").data is None
    bus.disconnect()


def test_a_group_is_a_durable_queue_until_it_is_forgotten(place: Place):
    with bus_at(place) as bus:
        s, heard = word(), Heard()
        bus.subscribe(f"{s}.#", heard.add, group="audit").unsubscribe()
        bus.publish(f"{s}.one", 1)
        subscription = bus.subscribe(f"{s}.#", heard.add, group="audit")
        heard.wait(1)
        assert (subscription.queue, subscription.group, subscription.pattern) == (
            f"events.audit.{s}.#",
            "audit",
            f"{s}.#",
        )
        bus.unsubscribe(subscription, forget=True)
        bus.unsubscribe(subscription, forget=True)  # gone already
        bus.publish(f"{s}.two", 2)
        bus.subscribe(f"{s}.#", heard.add, group="audit")
        bus.publish(f"{s}.three", 3)
        heard.wait(2)
        assert [event.data for event in heard.all] == [1, 3]
        assert bus._subscriptions[-1].stats.handled <= 1


def test_a_declared_queue_is_read_as_it_is(place: Place):
    with bus_at(place) as bus:
        s, heard = word(), Heard()
        queue = f"{s}.events"
        bus.declare_queue(queue, durable=True, pattern=f"{s}.print.#")
        bus.publish(f"{s}.model.made", 0)
        bus.publish(f"{s}.print.started", 1)
        subscription = bus.subscribe("#", heard.add, queue=queue)
        heard.wait(1)
        subscription.unsubscribe(forget=True)  # not ours to delete
        bus.publish(f"{s}.print.ended", 2)
        bus.subscribe("#", heard.add, queue=queue)
        assert [event.data for event in heard.wait(2)] == [1, 2]
        with pytest.raises(ConfigError, match="durable=True"):
            bus.declare_queue(queue, durable=False)


def test_start_consuming_returns_when_it_is_told_to_and_what_runs_comes_to_its_end(place: Place):
    with bus_at(place) as bus:
        s, heard, entered, go = word(), Heard(), threading.Event(), threading.Event()

        def blocks(event: Event[Any]) -> None:
            entered.set()
            assert go.wait(10)
            heard.add(event.data)

        bus.subscribe(f"{s}.#", blocks, group="audit")
        bus.publish(f"{s}.one", 1)
        assert entered.wait(10)
        consuming = Worker(bus.start_consuming)
        bus.stop()  # also when it comes first
        eventually(lambda: bool(bus._waits) or not consuming.is_alive(), "it waits")
        bus.stop()
        assert heard.all == []
        go.set()
        consuming.end()
        assert heard.all == [1]
        bus.publish(f"{s}.two", 2)  # it is still connected, and nobody reads
        with pytest.raises(ConfigError, match="nothing is subscribed"):
            bus.start_consuming()
        bus.subscribe(f"{s}.#", heard.add, group="audit")
        assert heard.wait(2)[1].data == 2


@pytest.mark.parametrize("how", ["start_consuming", "disconnect"])
def test_all_subscriptions_end_at_the_same_time_and_are_over_then(
    place: Place, how: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("fogactors.messaging.subscriber.DRAIN_S", 2.0)
    s, heard, go = word(), Heard(), threading.Event()

    def blocks(event: Event[Any]) -> None:
        heard.add(event.data)
        go.wait(30)

    with bus_at(place, "other") as other, bus_at(place) as bus:
        try:
            for number in range(4):
                bus.subscribe(f"{s}.{number}", blocks, group="a")
                other.publish(f"{s}.{number}", number)
            heard.wait(4)
            began = time.monotonic()
            if how == "disconnect":
                bus.disconnect()
            else:
                bus.stop()
                bus.start_consuming()
            assert time.monotonic() - began < 6
        finally:
            go.set()
        for number in range(4):
            other.publish(f"{s}.{number}", number + 4)
        again = Heard()
        for number in range(4):
            other.subscribe(f"{s}.{number}", again.add, group="a")
        again.wait(8)  # what was not settled has come back; and nobody else has taken anything
        assert sorted(heard.all) == [0, 1, 2, 3]


def test_a_stop_that_comes_first_is_not_lost(place: Place):
    with bus_at(place) as bus:
        s, heard = word(), Heard()
        bus.subscribe(f"{s}.#", lambda event: (bus.stop(), heard.add(event)))
        bus.publish(f"{s}.one")
        heard.wait(1)
        bus.start_consuming()  # returns


def test_a_handler_may_publish_while_it_is_disconnected(place: Place):
    s, heard, entered, go = word(), Heard(), threading.Event(), threading.Event()
    with bus_at(place, "audit") as audit:
        audit.subscribe(f"{s}.two", heard.add)
        bus = EventBus(place.url, "shop")
        bus.connect()

        def handle(event: Event[Any]) -> None:
            entered.set()
            assert go.wait(10)
            bus.publish(f"{s}.two", event.data)

        bus.subscribe(f"{s}.one", handle, group="shop")
        bus.publish(f"{s}.one", 7)
        assert entered.wait(10)
        leaving = Worker(bus.disconnect)
        eventually(lambda: bus._held is not None and bus._held.is_leaving, "it is being disconnected")
        go.set()
        leaving.end()
        assert heard.wait(1)[0].data == 7
        with pytest.raises(ConfigError, match="not connected"):
            bus.publish(f"{s}.two")


def test_a_handler_may_stop_it_and_publish_but_not_disconnect(place: Place):
    with bus_at(place) as bus:
        s, heard = word(), Heard()

        def handle(event: Event[Any]) -> None:
            for call in (bus.disconnect, bus.start_consuming):
                with pytest.raises(ConfigError, match="in a handler"):
                    call()
            heard.add((event.data, correlation_id(), bus.publish(f"{s}.told", event.data).causation_id))
            bus.stop()

        bus.subscribe(f"{s}.asked", handle, group="audit")
        consuming = Worker(bus.start_consuming)
        eventually(lambda: bool(bus._waits), "it waits")
        with correlated("request-7"):
            told = bus.publish(f"{s}.asked", 1)
        consuming.end()
        assert heard.all == [(1, "request-7", told.event_id)]


def test_several_threads_publish_at_once(place: Place):
    with bus_at(place) as bus:
        s, heard = word(), Heard()
        bus.subscribe(f"{s}.#", heard.add, group="audit", concurrency=4)

        def publish(thread: int) -> None:
            for number in range(25):
                bus.publish(f"{s}.{thread}", (thread, number))

        for thread in [Worker(publish, number) for number in range(8)]:
            thread.end()
        heard.wait(200)
        assert sorted(tuple(event.data) for event in heard.all) == [(t, n) for t in range(8) for n in range(25)]


@dataclass
class Started:
    job_id: str
    layers: int = 0


def test_data_is_what_the_handler_says_it_is(place: Place):
    with bus_at(place) as bus:
        s, heard = word(), Heard()

        def on_started(event: Event[Started]) -> None:
            heard.add(event.data)

        bus.subscribe(f"{s}.one", on_started)
        bus.subscribe(f"{s}.two", lambda event: heard.add(event.data), data_type=Started)
        bus.publish(f"{s}.one", Started("print_123", 7))
        heard.wait(1)
        bus.publish(f"{s}.two", {"job_id": "print_124"})
        assert heard.wait(2) == [Started("print_123", 7), Started("print_124")]


def test_a_handler_that_raises_is_called_again_and_holds_up_nobody(place: Place):
    with bus_at(place) as bus:
        s, heard = word(), Heard()

        def fails(event: Event[Any]) -> None:
            heard.add((event.data, event.attempt))
            if event.data == "bad":
                raise ValueError("no luck")
            if event.data == "exit":
                raise SystemExit("not the end of the program")

        retry = RetryPolicy(attempts=2, first_s=1.0, jitter=False)
        subscription = bus.subscribe(f"{s}.#", fails, group="a", retry=retry)
        for data in ("bad", "exit", "good"):
            bus.publish(f"{s}.one", data)
        heard.wait(4)
        eventually(lambda: subscription.stats.dead_lettered == 2, "two are given up")
        assert heard.all[:3] == [("bad", 1), ("exit", 1), ("good", 1)]
        assert set(heard.all[3:]) <= {("bad", 2), ("exit", 2)}
        assert (subscription.stats.handled, subscription.stats.retried) == (1, 1)


def test_a_slow_group_drops_its_oldest_is_counted_and_fails_no_publisher(place: Place):
    with bus_at(place, max_length=20, look_s=0.05) as bus:
        s, heard, go = word(), Heard(), threading.Event()

        def slow(event: Event[int]) -> None:
            assert go.wait(20)
            heard.add(event.data)

        place.limit(Queue(f"events.slow.{s}.#", policy=Policy(max_length=20, overflow="drop-head")))
        subscription = bus.subscribe(f"{s}.#", slow, group="slow", prefetch=1)
        for number in range(100):
            bus.publish(f"{s}.one", number)
        eventually(lambda: subscription.stats.full > 0, "it is counted")
        go.set()
        heard.wait(20)
        eventually(lambda: heard.all[-1] == 99, "the newest is there")
        assert len(heard.all) < 60


def test_a_publish_that_cannot_be_is_an_error_of_one_line(place: Place):
    with bus_at(place, max_body=1000) as bus:
        for event_type, data, kind in (
            ("not a type", 1, ConfigError),
            ("a.b", object(), WireError),
            ("a.b", "x" * 2000, MessageTooLarge),
        ):
            with pytest.raises(kind) as raised:
                bus.publish(event_type, data)
            assert_one_line(raised.value)


def test_properties_of_pika_are_taken_as_far_as_they_go():
    with EventBus(f"memory://{word()}", "shop") as bus:
        pika = SimpleNamespace(delivery_mode=2, correlation_id="request-7")
        assert bus.publish("a.b", properties=pika).correlation_id == "request-7"
        assert bus.publish("a.b", correlation_id="mine", properties=pika).correlation_id == "mine"
        with pytest.raises(ConfigError, match="delivery_mode is 2"):
            bus.publish("a.b", properties=SimpleNamespace(delivery_mode=1, correlation_id=None))


def test_what_cannot_be_is_said_at_once():
    async def handle(event: Event[Any]) -> None: ...

    class Handler:
        async def __call__(self, event: Event[Any]) -> None: ...

    with EventBus(f"memory://{word()}", "shop") as bus:
        for each in (handle, Handler()):
            with pytest.raises(ConfigError, match="plain functions"):
                bus.subscribe("#", each)
        with pytest.raises(ConfigError, match="cannot handle events"):
            bus.subscribe("#", lambda: None)  # pyright: ignore
    with pytest.raises(ConfigError, match="dedup_window_s"):
        EventBus(dedup_window_s=-1)
    with pytest.raises(ConfigError, match="begins with"):
        EventBus("http://localhost").connect()
    with pytest.raises(TopologyMismatch, match="topology apply"):
        EventBus(f"memory://{word()}", exchange="kitty.events").connect()
    bus = EventBus("memory://", "shop")
    assert bus.source == "shop"
    assert EventBus("memory://").source  # the program's name


# -- a broker that has bad days


def test_after_a_cut_publishes_and_handlers_go_on(place: Place):
    with bus_at(place) as bus:
        s, heard = word(), Heard()
        bus.subscribe(f"{s}.#", heard.add, group="audit")

        def publish(number: int) -> bool:
            try:
                bus.publish(f"{s}.one", number, event_id=f"{s}-{number}")
            except BusUnavailable as error:  # it was on its way when the connection went
                assert_one_line(error)
                return False
            return True

        for number in range(4):
            eventually(partial(publish, number), "it is published")
            heard.wait(number + 1)
            place.cut()
        assert {event.data for event in heard.all} == {0, 1, 2, 3}


def test_while_the_broker_is_down_a_publish_fails_in_its_time_and_later_works(place: Place):
    with bus_at(place) as bus:
        s, heard = word(), Heard()
        bus.subscribe(f"{s}.#", heard.add, group="audit")
        place.down()

        def is_down() -> bool:
            try:
                bus.publish(f"{s}.probe", timeout=0.2)
            except BusUnavailable as error:
                assert_one_line(error)
                return True
            return False

        eventually(is_down, "a publish fails")
        late = Worker(lambda: bus.publish(f"{s}.late", "late"))
        place.up()
        late.end()
        eventually(lambda: "late" in [event.data for event in heard.all], "what was published is heard")


def test_stop_and_disconnect_take_no_time_while_the_broker_is_down(place: Place):
    bus = EventBus(place.url, "shop")
    bus.connect()
    bus.subscribe(f"{word()}.#", print, group="audit")
    consuming = Worker(bus.start_consuming)
    eventually(lambda: bool(bus._waits), "it waits")
    place.down()
    try:
        bus.stop()
        consuming.end()
        bus.disconnect()
    finally:
        place.up()
