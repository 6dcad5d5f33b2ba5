"""A thread cannot be ended: when nobody waits for it any more it keeps its place, and none meets it in a handler."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import pytest

from fogactors import RetryPolicy
from fogactors.errors import BusUnavailable, CallLost, CallTimeout, NoSuchService
from fogactors.messaging import subscriber
from fogactors.messaging.blocking import Event, EventBus, RPCClient, RPCServer

from .conftest import Place
from .support import Heard, Worker, eventually, word


class Blocks:
    """A handler that waits to be let go at "slow". `most`: how many threads were in it at once."""

    def __init__(self) -> None:
        self.entered, self.go = Heard(), threading.Event()
        self.running = self.most = 0
        self._lock = threading.Lock()

    def request(self, data: Any) -> Any:
        with self._lock:
            self.running += 1
            self.most = max(self.most, self.running)
        try:
            self.entered.add(data)
            if data == "slow":
                assert self.go.wait(30)
            return data
        finally:
            with self._lock:
                self.running -= 1

    def event(self, event: Event[Any]) -> None:
        self.request(event.data)


@contextmanager
def served(server: RPCServer) -> Generator[Worker]:
    """While it serves; it ends without waiting for threads that are let go only later."""
    serves = Worker(server.start)
    try:
        yield serves
    finally:
        server.stop()
        serves.end()


def call(client: RPCClient, server: RPCServer, request: Any, timeout: float = 20) -> Any:
    """Once it serves."""
    answers: list[Any] = []

    def answered() -> bool:
        try:
            answers.append(client.call(server.service, request, timeout=timeout))
        except (NoSuchService, CallLost, BusUnavailable):
            return False
        return True

    eventually(answered, "it serves")
    return answers[0]


# -- calls


def test_a_call_that_outlasts_its_caller_keeps_its_place_and_no_other_meets_it(
    place: Place, caplog: pytest.LogCaptureFixture
):
    blocks = Blocks()
    with RPCServer(place.url, f"{word()}.rpc", concurrency=1) as server, RPCClient(place.url) as client:
        server.register_handler(blocks.request)
        with served(server):
            call(client, server, "ready")
            for request in ("slow", "in vain", "in vain"):
                with pytest.raises(CallTimeout):
                    client.call(server.service, request, timeout=0.4)
            assert blocks.entered.all == ["ready", "slow"]
            eventually(lambda: caplog.text.count("expired") == 2, "the server has given both up as well")
            again = Worker(client.call, server.service, "again")
            blocks.go.set()
            assert again.end() == "again"
            # What has waited in vain is not run later either: nobody wants its answer.
            assert blocks.entered.all == ["ready", "slow", "again"]
    assert blocks.most == 1


def test_its_place_outlives_a_stop_and_a_connection(place: Place):
    blocks = Blocks()
    server = RPCServer(place.url, f"{word()}.rpc", concurrency=1, drain_s=0.1)
    server.register_handler(blocks.request)
    with RPCClient(place.url) as client:
        server.connect()
        with served(server):
            call(client, server, "ready")
            with pytest.raises(CallTimeout):
                client.call(server.service, "slow", timeout=0.3)
        with served(server), pytest.raises(CallTimeout):
            call(client, server, "in vain", timeout=0.3)
        server.disconnect()
        server.connect()
        with served(server):
            with pytest.raises(CallTimeout):
                call(client, server, "in vain", timeout=0.3)
            place.cut()
            with pytest.raises(CallTimeout):
                call(client, server, "in vain", timeout=0.3)
            assert blocks.entered.all == ["ready", "slow"]
            blocks.go.set()
            assert call(client, server, "again") == "again"
        server.disconnect()
    assert blocks.most == 1


def test_a_stop_gives_what_waits_for_its_place_to_another_server(place: Place):
    blocks, others, service = Blocks(), Blocks(), f"{word()}.rpc"
    with (
        RPCServer(place.url, service, concurrency=1, prefetch=2) as first,
        RPCServer(place.url, service) as second,
        RPCClient(place.url) as client,
    ):
        first.register_handler(blocks.request)
        second.register_handler(others.request)
        serves = Worker(first.start)
        call(client, first, "ready")
        with pytest.raises(CallTimeout):
            client.call(service, "slow", timeout=0.3)
        waits = [Worker(client.call, service, number) for number in range(2)]
        with served(second):
            first.stop()
            assert [each.end() for each in waits] == [0, 1]
            blocks.go.set()
            serves.end()
    assert blocks.entered.all == ["ready", "slow"]
    assert sorted(others.entered.all) == [0, 1]


# -- events


def test_a_handler_that_outlasts_its_time_keeps_its_place_and_the_others_wait_for_it(place: Place):
    s, blocks = word(), Blocks()
    with EventBus(place.url, "shop") as bus:
        subscription = bus.subscribe(
            f"{s}.#", blocks.event, group="a", timeout=0.2, retry=RetryPolicy(attempts=2, first_s=1.0, jitter=False)
        )
        for data in ("slow", 1, 2):
            bus.publish(f"{s}.one", data)
        eventually(lambda: subscription.stats.retried == 1, "the first has failed")
        # Its retry is back after a second, and waits as the others do; that is no time of theirs.
        bus.publish(f"{s}.one", 3)
        stays_alone(blocks, 1.5)
        place.cut()
        stays_alone(blocks, 1.0)
        blocks.go.set()
        heard = blocks.entered.wait(5)
        eventually(lambda: subscription.stats.handled == 4, "all are handled")
    assert heard[0] == "slow"
    assert sorted(map(str, heard[1:])) == ["1", "2", "3", "slow"]
    assert blocks.most == 1
    assert subscription.stats.dead_lettered == 0


def test_an_event_is_not_tried_again_beside_its_first_run(place: Place):
    s, blocks = word(), Blocks()
    with EventBus(place.url, "shop") as bus:
        policy = RetryPolicy(attempts=2, first_s=1.0, jitter=False)
        subscription = bus.subscribe(f"{s}.#", blocks.event, group="a", timeout=0.2, concurrency=4, retry=policy)
        bus.publish(f"{s}.one", "slow")
        eventually(lambda: subscription.stats.retried == 1, "it has failed")
        stays_alone(blocks, 1.5)
        bus.publish(f"{s}.one", 1)
        assert blocks.entered.wait(2) == ["slow", 1]  # another has its place
        blocks.go.set()
        assert blocks.entered.wait(3) == ["slow", 1, "slow"]


def test_what_finds_no_place_in_time_goes_to_another_process_of_the_group(
    place: Place, monkeypatch: pytest.MonkeyPatch
):
    """In time: before the broker takes back what was in hand for too long."""
    monkeypatch.setattr(subscriber, "longest_s", lambda: 1.0)
    s, blocks, heard = word(), Blocks(), Heard()
    with EventBus(place.url, "shop") as bus, EventBus(place.url, "shop") as other:
        once = RetryPolicy(attempts=1)
        stuck = bus.subscribe(f"{s}.#", blocks.event, group="a", timeout=0.5, retry=once)
        bus.publish(f"{s}.one", "slow")
        eventually(lambda: stuck.stats.dead_lettered == 1, "the first is given up")
        for number in range(3):
            bus.publish(f"{s}.one", number)
        eventually(lambda: stuck.stats.retried == 3, "they go back")
        other.subscribe(f"{s}.#", lambda event: heard.add((event.data, event.attempt)), group="a", timeout=0.5)
        assert sorted(heard.wait(3)) == [(0, 1), (1, 1), (2, 1)]  # no attempt was counted
        blocks.go.set()
    assert blocks.entered.all == ["slow"]
    assert stuck.stats.dead_lettered == 1


def test_unsubscribe_waits_for_no_thread_that_is_given_up(place: Place):
    s, blocks, heard = word(), Blocks(), Heard()
    with EventBus(place.url, "shop") as bus:
        subscription = bus.subscribe(f"{s}.#", blocks.event, group="a", timeout=0.2, retry=RetryPolicy(attempts=1))
        bus.publish(f"{s}.one", "slow")
        bus.publish(f"{s}.one", 1)
        eventually(lambda: subscription.stats.dead_lettered == 1, "the first is given up")
        began = time.monotonic()
        subscription.unsubscribe()
        assert time.monotonic() - began < 5
        bus.subscribe(f"{s}.#", lambda event: heard.add(event.data), group="a")
        assert heard.wait(1) == [1]
        blocks.go.set()
    assert blocks.entered.all == ["slow"]


def stays_alone(blocks: Blocks, seconds: float) -> None:
    """Nobody else enters meanwhile. A wait for what must not come has no event; it can only miss what is wrong."""
    until, count = time.monotonic() + seconds, len(blocks.entered.all)
    while time.monotonic() < until:
        assert len(blocks.entered.all) == count
        time.sleep(0.02)
