"""What the blocking classes share: the loop's thread, signals, defaults, and what they say when used wrongly."""

from __future__ import annotations

import signal
import threading
import time
from contextlib import suppress
from typing import Any

import anyio.to_thread
import pytest

from fogactors.errors import BusUnavailable, ConfigError, TopologyMismatch
from fogactors.messaging.blocking import EventBus, RPCClient, RPCServer, TaskQueue
from fogactors.messaging.blocking.defaults import broker_url
from fogactors.messaging.blocking.loop import Loop, current
from fogactors.messaging.blocking.stopping import Wait

from .conftest import Place
from .support import Heard, Worker, assert_one_line, eventually, word


@pytest.mark.parametrize(
    ("url", "environment", "expected"),
    [
        (None, {}, "amqp://localhost:5672/"),
        (None, {"RABBITMQ_URL": "amqp://kitty:changeme@rabbitmq:5672/"}, "amqp://kitty:changeme@rabbitmq:5672/"),
        (None, {"RABBITMQ_USER": "kitty", "RABBITMQ_PASSWORD": "p@ss/"}, "amqp://kitty:p%40ss%2F@localhost:5672/"),
        (None, {"RABBITMQ_VHOST": "/fog"}, "amqp://localhost:5672/%2Ffog"),
        ("amqp://a:b@h1,h2/%2Ffog", {"RABBITMQ_USER": "kitty", "RABBITMQ_VHOST": "/"}, "amqp://a:b@h1,h2/%2Ffog"),
        ("amqp://h1,h2", {"RABBITMQ_USER": "kitty", "RABBITMQ_VHOST": "/"}, "amqp://kitty:@h1,h2/%2F"),
        ("amqps://h1?cafile=ca.pem", {"RABBITMQ_URL": "amqp://no"}, "amqps://h1/?cafile=ca.pem"),
        ("memory://shop", {"RABBITMQ_URL": "amqp://no", "RABBITMQ_USER": "kitty"}, "memory://shop"),
    ],
)
def test_what_a_url_leaves_open_comes_from_the_environment(url: str | None, environment: dict[str, str], expected: str):
    assert broker_url(url, environment) == expected


def faces() -> list[Any]:
    url = f"memory://{word()}"
    server = RPCServer(url, "math.rpc")
    server.register_handler(repr)
    return [EventBus(url, "shop"), RPCClient(url), server]


def test_before_connect_and_after_disconnect_it_says_so():
    bus, client, server = faces()
    calls = (lambda: bus.publish("a.b"), lambda: bus.subscribe("#", print), bus.start_consuming)
    calls = (*calls, lambda: client.call("math.rpc", 1), server.start)
    for _ in range(2):
        for each in calls:
            with pytest.raises(ConfigError, match=r"is not connected; call connect\(\)"):
                each()
        for face in (bus, client, server):
            face.disconnect()  # harmless
            face.stop()
            face.connect()
            face.disconnect()


def no_exchange(kind: str, url: str, exchange: str) -> None:
    match kind:
        case "events":
            EventBus(url, "shop", exchange=exchange).connect()
        case "tasks":
            TaskQueue(url, f"{word()}.tasks", exchange=exchange).connect()
        case "caller":
            RPCClient(url, exchange=exchange).connect()
        case _:
            with RPCServer(url, f"{word()}.rpc", exchange=exchange) as server:
                server.register_handler(repr)
                server.start()


@pytest.mark.parametrize("kind", ["events", "tasks", "caller", "server"])
def test_an_exchange_that_is_not_there_is_named_with_what_to_run(place: Place, kind: str):
    exchange = f"{word()}.nowhere"
    with pytest.raises(TopologyMismatch, match=rf"exchange '?{exchange}.*run `fogactors topology apply`") as raised:
        no_exchange(kind, place.url, exchange)
    assert_one_line(raised.value)


@pytest.mark.asyncio
async def test_it_refuses_to_block_an_event_loop_but_not_a_thread_of_it():
    bus, client, server = faces()
    for face in (bus, client, server):
        with pytest.raises(ConfigError, match="would block the event loop"):
            face.connect()
    await anyio.to_thread.run_sync(bus.connect)
    with pytest.raises(ConfigError, match="would block the event loop"):
        bus.publish("a.b")
    with pytest.raises(ConfigError, match="would block the event loop"):
        bus.disconnect()
    assert bus.is_connected
    assert (await anyio.to_thread.run_sync(bus.publish, "a.b")).event_type == "a.b"
    await anyio.to_thread.run_sync(bus.disconnect)


@pytest.mark.parametrize("delay_s", [0, 0.001, 0.003, 0.01, None])
def test_disconnect_ends_what_waits_or_is_about_to(delay_s: float | None):
    bus, client, server = faces()
    queue = TaskQueue(f"memory://{word()}", "research.tasks")
    queue.register_handler("work", print)
    with bus, client, server, queue:
        bus.subscribe("#", print)
        waiting = [Worker(each) for each in (bus.start_consuming, server.start, queue.start_worker)]
        if delay_s is None:
            eventually(lambda: all(each._waits for each in (bus, server, queue)), "they wait")
        else:
            time.sleep(delay_s)
    for each in waiting:
        with suppress(ConfigError):  # it had not begun
            each.end()


def test_all_share_one_thread_and_one_broker_in_it():
    url, heard = f"memory://{word()}", Heard()
    with EventBus(url, "a") as first, EventBus(url, "b") as second:
        first.subscribe("#", heard.add)
        second.publish("a.b", 1)
        heard.wait(1)
        assert [each.name for each in threading.enumerate()].count("fogactors loop") == 1


def test_ctrl_c_takes_back_what_it_interrupts():
    """As KeyboardInterrupt in the main thread does, wherever it waits."""
    loop, ended = current(), threading.Event()

    async def sleep() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()

    future = loop.start(sleep)
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        with pytest.raises(KeyboardInterrupt):
            loop.wait(future)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert ended.wait(10)


def test_a_loop_that_is_stopped_ends_its_thread():
    loop = Loop()
    loop.stop(10)
    assert not loop.is_alive
    loop.stop(10)  # it is
    with pytest.raises(BusUnavailable):
        loop.call(anyio.sleep, 0)


# -- signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_every_wait_of_the_process_and_handlers_are_put_back(number: signal.Signals):
    before = signal.getsignal(number)
    bus, _, server = faces()
    with bus, server:
        bus.subscribe("#", print)
        thread = Worker(server.start)

        def send() -> None:
            eventually(lambda: bool(bus._waits and server._waits), "both wait")
            signal.pthread_kill(threading.main_thread().ident or 0, number)

        sender = Worker(send)
        bus.start_consuming()
        sender.end()
        thread.end()
    assert signal.getsignal(number) is before


def test_a_signal_for_which_the_program_has_its_own_handler_is_left_to_it():
    got: list[int] = []
    wait = Wait("a test")

    def handler(number: int, frame: object) -> None:
        got.append(number)
        wait.stop()  # as a program would call stop()

    before = signal.signal(signal.SIGTERM, handler)
    ignored = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with wait.listening():
            signal.raise_signal(signal.SIGINT)  # ignored as before
            signal.raise_signal(signal.SIGTERM)
            wait.until_stopped()
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGINT, ignored)
    assert got == [signal.SIGTERM]


def test_a_signal_at_any_moment_of_a_wait_stops_it():
    for delay_s in (0.0001, 0.001, 0.01):
        wait = Wait("a test")
        with wait.listening():
            timer = threading.Timer(delay_s, signal.pthread_kill, (threading.main_thread().ident, signal.SIGTERM))
            began = time.monotonic()
            timer.start()
            wait.until_stopped()
            assert time.monotonic() - began < 10
            timer.join()
