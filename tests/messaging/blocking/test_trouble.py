"""The blocking face when a real broker is down, restarts or refuses; in this process and as programs of a user."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import anyio
import pytest

import fogactors.bus.amqp
from fogactors.errors import AccessRefused, BusUnavailable, FogError
from fogactors.messaging.blocking import Event, EventBus, RPCClient, RPCServer
from tests.integration.fog import Services
from tests.integration.own import Own

from .conftest import RabbitPlace
from .programs import Programs
from .support import Heard, Worker, assert_one_line, eventually, word

pytestmark = pytest.mark.services


# -- at connect


def faces(url: str, timeout: float) -> list[EventBus | RPCClient | RPCServer]:
    return [
        EventBus(url, "shop", connect_timeout_s=timeout),
        RPCClient(url, connect_timeout_s=timeout),
        RPCServer(url, "math.rpc", connect_timeout_s=timeout),
    ]


def test_connect_waits_for_a_broker_that_is_down_and_no_longer_than_it_should(rabbit: RabbitPlace):
    rabbit.down()
    for face in faces(rabbit.url, 0.5):
        began = time.monotonic()
        with pytest.raises(BusUnavailable, match=r"waited 0\.5 s") as raised:
            face.connect()
        assert 0.4 < time.monotonic() - began < 5
        assert_one_line(raised.value)
        assert not face.is_connected
    bus = EventBus(rabbit.url, "shop", connect_timeout_s=20)
    connecting = Worker(bus.connect)
    rabbit.up()
    connecting.end()
    bus.publish("a.b")
    bus.disconnect()


def test_what_the_broker_refuses_is_said_at_once_and_without_the_password(services: Services):
    nowhere = services.in_vhost("/nowhere").amqp_url
    wrong = services.as_user("kitty", "a-wrong-secret").amqp_url
    for url in (wrong, nowhere):
        for face in faces(url, 20):
            began = time.monotonic()
            with pytest.raises(AccessRefused) as raised:
                face.connect()
            assert time.monotonic() - began < 10
            assert_one_line(raised.value)
            assert "a-wrong-secret" not in str(raised.value)


@contextmanager
def restricted(services: Services, **permissions: str) -> Iterator[str]:
    """The URL of a user who may do no more than this."""
    name, vhost = f"user-{uuid4().hex[:6]}", quote(services.vhost, safe="")
    services.api("PUT", f"/users/{name}", {"password": "secret", "tags": ""})
    try:
        nothing = dict.fromkeys(("configure", "write", "read"), "^$")
        services.api("PUT", f"/permissions/{vhost}/{name}", {**nothing, **permissions})
        yield services.as_user(name, "secret").amqp_url
    finally:
        services.api("DELETE", f"/users/{name}")


def test_what_a_user_may_not_do_is_refused_in_one_line(services: Services):
    # From 4.3 on to look for its exchange, at connect(), needs `configure`.
    with restricted(services, configure=r"^events\.topic$") as url, EventBus(url, "shop") as bus:
        calls: tuple[Callable[[], Any], ...] = (
            lambda: bus.publish("a.b"),
            lambda: bus.subscribe("a.#", print, group="audit"),
            lambda: bus.subscribe("a.#", print),
        )
        for call in calls:
            with pytest.raises(AccessRefused) as raised:
                call()
            assert_one_line(raised.value)
    with restricted(services) as url, RPCServer(url, "math.rpc") as server:
        server.register_handler(repr)
        with pytest.raises(AccessRefused):
            server.start()


def test_a_queue_that_is_not_there_is_said_at_once(services: Services):
    with EventBus(services.amqp_url, "shop") as bus, pytest.raises(FogError, match=r"audit\.nowhere"):
        bus.subscribe("#", print, queue="audit.nowhere")


# -- in mid use


def test_heartbeats_go_on_while_a_handler_blocks(rabbit: RabbitPlace, monkeypatch: pytest.MonkeyPatch):
    """With one a second: the broker would close a connection that is silent for two."""
    quick = partial(fogactors.bus.amqp.AmqpBus, heartbeat_s=1)
    monkeypatch.setattr(fogactors.bus.amqp, "AmqpBus", quick)
    s, heard = word(), Heard()

    def blocks(event: Event[Any]) -> None:
        time.sleep(5)
        heard.add(event.event_id)

    with EventBus(rabbit.url, "shop") as bus:
        bus.subscribe(f"{s}.#", blocks, group="audit")
        before = rabbit.proxy.accepted
        told = bus.publish(f"{s}.one")
        assert heard.wait(1) == [told.event_id]
        bus.publish(f"{s}.two", timeout=1)
        assert rabbit.proxy.accepted == before


def test_a_broker_that_does_not_answer_any_more_holds_up_no_publish_beyond_its_time(rabbit: RabbitPlace):
    with EventBus(rabbit.url, "shop") as bus:
        rabbit.portal.call(rabbit.proxy.stall)
        try:
            began = time.monotonic()
            with pytest.raises(BusUnavailable):
                bus.publish("a.b", timeout=1)
            assert 0.9 < time.monotonic() - began < 3
        finally:
            rabbit.portal.call(rabbit.proxy.resume)


@pytest.fixture(scope="module")
def own() -> Iterator[Own]:
    with Own.open() as own:
        yield own


@pytest.mark.slow
@pytest.mark.parametrize("kill", [False, True])
def test_a_restart_of_the_broker_loses_nothing_that_was_published(own: Own, kill: bool):
    """Published again with the same id when it failed, handled once by the group."""
    s, heard, done = word(), Heard(), threading.Event()
    published: list[int] = []
    with EventBus(own.services.amqp_url, "shop") as bus:
        bus.subscribe(f"{s}.#", lambda event: heard.add(event.data), group="audit")

        def publish() -> None:
            number = 0
            while not done.is_set():
                with suppress(BusUnavailable):
                    bus.publish(f"{s}.one", number, event_id=f"{s}-{number}", timeout=2)
                    published.append(number)
                    number += 1
                time.sleep(0.01)

        publisher = Worker(publish)
        heard.wait(20)
        anyio.run(partial(own.restart_broker, kill=kill))
        count = len(published)
        eventually(lambda: len(published) > count + 20, "publishes go on")
        done.set()
        publisher.end()
        eventually(lambda: set(published) <= set(heard.all), "all is heard")
        with RPCServer(own.services.amqp_url, f"{s}.rpc") as server, RPCClient(own.services.amqp_url) as client:
            server.register_handler(repr)
            serving = Worker(server.start)
            eventually(lambda: _answers(client, server.service), "calls are answered")
            server.stop()
            serving.end()


def _answers(client: RPCClient, service: str) -> bool:
    with suppress(FogError):
        return client.call(service, 1) == "1"
    return False


# -- programs

CONSUMER = """
    import sys, time
    from fogactors.messaging.blocking import EventBus, run

    def handle(event):
        print("begun", event.data, flush=True)
        time.sleep(1)
        print("done", event.data, flush=True)

    def main():
        bus = EventBus(source="audit-service")
        bus.connect()
        bus.subscribe(sys.argv[1], handle, group="audit")
        print("ready", flush=True)
        bus.start_consuming()
        print("over", flush=True)

    run(main)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_handler_finish_and_the_rest_goes_to_the_next(
    services: Services, programs: Programs, number: signal.Signals
):
    s = word()
    first = programs.start(CONSUMER, f"{s}.#", RABBITMQ_URL=services.amqp_url)
    first.until("ready")
    with EventBus(services.amqp_url, "shop") as bus:
        for each in range(3):
            bus.publish(f"{s}.one", each)
        first.until("begun 0")
        first.signal(number)
        assert first.end() == 0, first.said
        assert first.lines == ["ready", "begun 0", "done 0", "over"]
        heard = Heard()
        bus.subscribe(f"{s}.#", heard.add, group="audit")
        assert [event.data for event in heard.wait(2)] == [1, 2]


def test_a_signal_ends_it_while_the_broker_is_down(rabbit: RabbitPlace, programs: Programs):
    program = programs.start(CONSUMER, f"{word()}.#", RABBITMQ_URL=rabbit.url)
    program.until("ready")
    rabbit.down()
    program.signal(signal.SIGTERM)
    assert program.end(timeout=15) == 0, program.said
    assert "over" in program.lines


@pytest.mark.parametrize(
    ("wrong", "code", "says"),
    [
        ({"RABBITMQ_URL": "amqp://127.0.0.1:1"}, 3, "127.0.0.1:1: Connection refused"),
        ({"RABBITMQ_USER": "kitty", "RABBITMQ_PASSWORD": "wrong"}, 2, "refused"),
        ({"RABBITMQ_VHOST": "/nowhere"}, 2, "/nowhere"),
    ],
)
def test_a_program_that_cannot_connect_ends_with_one_line_and_an_exit_code(
    services: Services, programs: Programs, wrong: dict[str, str], code: int, says: str
):
    user, _, rest = services.amqp_url.removeprefix("amqp://").rpartition("@")
    name, _, password = user.partition(":")
    right = {
        "RABBITMQ_URL": f"amqp://{rest.partition('/')[0]}/",
        "RABBITMQ_USER": name,
        "RABBITMQ_PASSWORD": password,
        "RABBITMQ_VHOST": services.vhost,
    }
    program = programs.start(CONSUMER, "#", **{**right, **wrong})
    assert program.end() == code, program.said
    assert len(program.lines) == 1
    assert says in program.said


def test_the_environment_says_where_the_broker_is(services: Services, programs: Programs):
    user, _, rest = services.amqp_url.removeprefix("amqp://").rpartition("@")
    name, _, password = user.partition(":")
    program = programs.start(
        """
        from fogactors.messaging.blocking import EventBus
        with EventBus() as bus:
            print(bus.publish("a.b", {"x": 1}).source)
        """,
        RABBITMQ_URL=f"amqp://{rest.partition('/')[0]}/",
        RABBITMQ_USER=name,
        RABBITMQ_PASSWORD=password,
        RABBITMQ_VHOST=services.vhost,
    )
    assert program.end() == 0, program.said
    assert program.lines == ["program0"]
