"""Calls without asyncio: on the embedded broker and on RabbitMQ alike."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from fogactors.errors import (
    BusUnavailable,
    CallLost,
    CallTimeout,
    ConfigError,
    NoSuchService,
    QueueFull,
    RemoteError,
)
from fogactors.messaging.blocking import RPCClient, RPCServer, correlated, correlation_id
from fogactors.wire import Policy, Queue

from .conftest import Place
from .support import Heard, Worker, assert_one_line, eventually, word


@contextmanager
def serving(place: Place, fn: Callable[..., Any], **options: Any) -> Iterator[RPCServer]:
    with RPCServer(place.url, f"{word()}.rpc", **options) as server:
        server.register_handler(fn)
        thread = Worker(server.start)
        with RPCClient(place.url) as client:
            eventually(lambda: is_served(client, server.service), "it serves")
        yield server
        server.stop()
        thread.end()


def is_served(client: RPCClient, service: str) -> bool:
    try:
        client.call(service, "are you there?")
    except NoSuchService:
        return False
    except RemoteError:
        return True
    return True


def echo(request: Any) -> Any:
    return request


def test_a_call_and_its_answer(place: Place):
    def add(request: dict[str, int]) -> dict[str, int]:
        return {"result": request["a"] + request["b"]}

    with serving(place, add) as server:
        client = RPCClient(place.url)
        client.connect()
        assert client.call(server.service, {"a": 5, "b": 3}, timeout=30) == {"result": 8}
        client.disconnect()


@dataclass
class Cost:
    usd: float


def test_types_errors_and_the_conversation_go_both_ways(place: Place):
    def estimate(volume: float, material: str = "pla") -> Cost:
        return Cost(volume * {"pla": 2.0}[material])

    def who(request: Any) -> str | None:
        return correlation_id()

    with serving(place, estimate) as server, serving(place, who) as other, RPCClient(place.url) as client:
        assert client.call(server.service, {"volume": 2}, returns=Cost) == Cost(4.0)
        with pytest.raises(RemoteError, match="tin") as raised:
            client.call(server.service, {"volume": 2, "material": "tin"})
        assert raised.value.type == "KeyError"
        with correlated("request-7"):
            assert client.call(other.service, None) == "request-7"


def test_a_hundred_threads_call_at_once_and_wait_for_no_one_but_their_own_answer(place: Place):
    """Behaviour 20, with threads on both sides: 100 calls of 100 ms in less than 500 ms."""

    def slow(request: int) -> int:
        time.sleep(0.1)
        return request

    with serving(place, slow) as server, RPCClient(place.url) as client:

        def burst() -> float:
            gate, heard = threading.Barrier(101), Heard()

            def call(number: int) -> None:
                gate.wait()
                heard.add(client.call(server.service, number, returns=int))

            threads = [Worker(call, number) for number in range(100)]
            gate.wait()
            began = time.monotonic()
            for each in threads:
                each.end()
            took = time.monotonic() - began
            assert sorted(heard.all) == list(range(100))
            return took

        # The best of a few, because other processes of the machine take their share of any single one.
        took, deadline = [burst()], time.monotonic() + 30
        while min(took) >= 0.5 and time.monotonic() < deadline:
            took.append(burst())
        assert min(took) < 0.5


def test_nobody_serves_is_said_at_once(place: Place):
    with RPCClient(place.url) as client:
        began = time.monotonic()
        with pytest.raises(NoSuchService, match="start a server"):
            client.call(f"{word()}.rpc", None, timeout=30)
        assert time.monotonic() - began < 10


def test_no_answer_in_time(place: Place):
    go = threading.Event()

    def slow(request: Any) -> None:
        if request == "slow":
            assert go.wait(20)

    with serving(place, slow) as server, RPCClient(place.url) as client:
        with pytest.raises(CallTimeout, match=r"0\.3 s"):
            client.call(server.service, "slow", timeout=0.3)
        go.set()


def test_no_more_threads_than_the_server_allows(place: Place):
    running, most, lock = 0, 0, threading.Lock()

    def count(request: Any) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.02)
        with lock:
            running -= 1

    with serving(place, count, concurrency=1) as server, RPCClient(place.url) as client:
        for each in [Worker(client.call, server.service, None) for _ in range(10)]:
            each.end()
    assert most == 1


def test_a_stop_lets_what_runs_finish_and_it_can_start_again(place: Place):
    entered, go = threading.Event(), threading.Event()

    def slow(request: Any) -> str:
        if request == "slow":
            entered.set()
            assert go.wait(10)
        return "done"

    with RPCServer(place.url, f"{word()}.rpc") as server, RPCClient(place.url) as client:
        server.handler(slow)
        for _ in range(2):
            entered.clear()
            go.clear()
            thread = Worker(server.start)
            eventually(lambda: is_served(client, server.service), "it serves")
            call = Worker(client.call, server.service, "slow")
            assert entered.wait(10)
            server.stop()
            go.set()
            thread.end()
            assert call.end() == "done"
            with pytest.raises(NoSuchService):
                client.call(server.service, None)


def test_a_server_needs_one_handler_that_can_be_one():
    async def answer(request: Any) -> None: ...

    with pytest.raises(ConfigError, match="cannot be a service"):
        RPCServer("memory://")
    server = RPCServer(f"memory://{word()}", "math.rpc")
    for each, says in ((answer, "plain functions"), (lambda: None, "takes no request")):
        with pytest.raises(ConfigError, match=says):
            server.register_handler(each)
    with pytest.raises(ConfigError, match="has no handler"):
        server.start()
    server.register_handler(echo)
    with pytest.raises(ConfigError, match="a service has one"):
        server.register_handler(echo)
    with pytest.raises(ConfigError, match="not connected"):
        server.start()


# -- a broker that has bad days


def test_a_connection_lost_in_mid_call_is_an_error_at_once_and_both_come_back(place: Place):
    entered, go = Heard(), threading.Event()

    def slow(request: Any) -> str:
        if request == "slow":
            entered.add(request)
            go.wait(20)
        return "done"

    with serving(place, slow) as server, RPCClient(place.url) as client:
        calls = [Worker(client.call, server.service, "slow") for _ in range(3)]
        entered.wait(3)
        place.cut()
        began = time.monotonic()
        for each in calls:
            with pytest.raises(CallLost, match="may have been carried out"):
                each.end()
        assert time.monotonic() - began < 10  # and not after 30
        go.set()

        def works() -> bool:
            try:
                return client.call(server.service, "quick") == "done"
            except (NoSuchService, BusUnavailable):
                return False

        eventually(works, "both are back")


def test_while_the_broker_is_down_a_call_fails_in_its_time(place: Place):
    with serving(place, echo) as server, RPCClient(place.url) as client:
        client.call(server.service, 1)
        place.down()

        def is_down() -> bool:
            try:
                client.call(server.service, 1, timeout=0.3)
            except CallLost:
                return False
            except BusUnavailable as error:
                assert_one_line(error)
                return True
            return False

        eventually(is_down, "a call fails")
        place.up()
        eventually(lambda: is_served(client, server.service), "it works again")


def test_a_queue_that_is_full_refuses(place: Place):
    service = f"{word()}.rpc"
    place.limit(Queue(f"rpc.{service}", policy=Policy(max_length=2, overflow="reject-publish")))
    go = threading.Event()

    def slow(request: Any) -> None:
        if request == "slow":
            assert go.wait(30)

    with RPCServer(place.url, service, concurrency=1) as server, RPCClient(place.url) as client:
        server.register_handler(slow)
        thread = Worker(server.start)
        eventually(lambda: is_served(client, service), "it serves")

        def is_refused() -> bool:
            try:
                client.call(service, "slow", timeout=0.3)
            except QueueFull as error:
                assert_one_line(error)
                return True
            except CallTimeout:
                return False  # and its request goes from the queue with its time: so several at once
            return False

        def one_of_ten_is_refused() -> bool:
            ends = [each.end() for each in [Worker(is_refused) for _ in range(10)]]
            return any(ends)

        eventually(one_of_ten_is_refused, "it refuses")
        go.set()
        server.stop()
        thread.end()


def test_disconnect_in_mid_call_is_an_error_at_once(place: Place):
    entered, go = threading.Event(), threading.Event()

    def slow(request: Any) -> None:
        if request == "slow":
            entered.set()
            assert go.wait(20)

    with serving(place, slow) as server:
        client = RPCClient(place.url)
        client.connect()
        call = Worker(client.call, server.service, "slow")
        assert entered.wait(10)
        client.disconnect()
        with pytest.raises(BusUnavailable):
            call.end()
        go.set()
