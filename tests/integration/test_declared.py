"""Exchanges, queues and policies of `actors.toml` on real brokers: made, compared, changed, and what cannot be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import anyio
import pytest

from fogactors.bus import Message
from fogactors.errors import AccessRefused
from fogactors.messaging import Event, EventBus
from fogactors.messaging.event import group_queue
from fogactors.wire import Binding, Queue, Topology
from fogactors.wire.access import User, user_definitions
from fogactors.wire.topology import EVENTS
from tests.integration.fog import Done, Services, connected, until

pytestmark = [pytest.mark.services, pytest.mark.versions]

SHOP = """
[exchanges."shop.events"]
type = "topic"

[queues."shop.orders"]
max_length = 10
overflow = "reject-publish"
dead_letter_exchange = "dlx"
bindings = ["shop.events order.#"]

[queues."retry.shop"]
message_ttl_s = 1
retry_to = "shop.orders"
bindings = ["shop.events again"]

[queues."shop.log"]
type = "stream"
max_age_s = 3600
bindings = ["shop.events #"]

[policies."events.shop."]
max_length = 3
"""
COUNT = "18 exchanges, 36 queues, 27 bindings"
REPLACE = "the broker refuses to change it (PRECONDITION_FAILED): empty and delete it, then apply again"


@pytest.fixture
def shop(command, bare, tmp_path) -> Callable[..., Done]:
    """`fogactors topology ...` with what the shop declares, changed by `old` and `new`."""

    def run(*words: str, old: str = "", new: str = "", services: Services = bare) -> Done:
        assert old in SHOP
        path: Path = tmp_path / "shop.toml"
        path.write_text(SHOP.replace(old, new) if old else SHOP)
        return command("--config", str(path), "topology", *words, services=services)

    return run


def put(services: Services, queue: str, **arguments: Any) -> None:
    """A queue as somebody else has declared it."""
    given = {key.replace("_", "-"): value for key, value in arguments.items()}
    body = {"durable": True, "arguments": {"x-queue-type": "quorum", **given}}
    services.api("PUT", f"/queues/{quote(services.vhost, safe='')}/{queue}", body)


def test_they_are_made_compared_and_changed(shop, bare):
    assert shop("apply").out.startswith(f"{COUNT}: ")
    assert shop("apply").out == f"{COUNT}: all there already\n"
    assert (done := shop("diff")).code == 0, done.out
    changed = {"old": "max_length = 10\n", "new": "max_length = 20\nmessage_ttl_s = 60\n"}
    diff = shop("diff", **changed)
    assert (diff.code, diff.out.splitlines()) == (
        2,
        [
            "policy fog.shop.orders max-length: wanted 20, found 10",
            "policy fog.shop.orders message-ttl: wanted 60000, found none",
        ],
    )
    assert shop("apply", **changed).out == f"{COUNT}: 2 differences mended\n"
    assert shop("diff", **changed).code == 0


def test_a_binding_that_was_taken_out_is_told(shop):
    assert shop("apply").code == 0
    moved = {"old": "order.#", "new": "order.paid"}
    applied = shop("apply", **moved)
    left = "binding of shop.orders to shop.events: wanted none, found 'order.#'; messages come by it as well"
    assert (applied.code, applied.out) == (
        2,
        f"{COUNT}: 1 differences mended\nnot mended: {left}: unbind it, or add it to the bindings\n",
    )


def test_what_the_broker_never_changes_is_told_before_anything_is(shop, bare):
    put(bare, "shop.orders", x_max_length=5)
    put(bare, "shop.log")
    diff = shop("diff")
    lines = diff.out.splitlines()
    assert f"queue shop.orders argument x-max-length: wanted none, found 5; {REPLACE}" in lines
    assert f"queue shop.log: wanted stream, found quorum; {REPLACE}" in lines
    applied = shop("apply")
    assert (applied.code, applied.out) == (2, "")
    first = next(line for line in lines if line.endswith(REPLACE))
    assert applied.err == f"fogactors: {first} (nothing was changed)\n"
    assert shop("diff").out == diff.out
    as_json = json.loads(shop("diff", "--json").out)
    assert {each["what"] for each in as_json if each["fatal"]} == {
        "queue shop.orders argument x-max-length",
        "queue shop.log",
    }


def test_limits_retries_and_narrow_policies_hold(shop, bare):
    assert shop("apply").code == 0
    anyio.run(_hold, bare)


async def _hold(services: Services) -> None:
    async with connected(services) as bus:

        async def ready(queue: str, count: int) -> None:
            async def so() -> bool:
                return (await bus.inspect(queue)).ready == count

            await until(so, f"{count} in {queue}")

        await bus.declare(Topology(queues=(Queue("other"),), bindings=(Binding("shop.events", "#", "other"),)))
        await bus.publish("shop.events", "order.paid", Message(b"1"))
        await bus.publish("shop.events", "again", Message(b"1"))
        await ready("shop.orders", 2)  # one of them by way of the queue in which it waits
        await ready("retry.shop", 0)
        await ready("other", 2)  # as they were published
        narrow, wide = group_queue("shop", "a.#"), group_queue("other", "a.#")
        queues = (Queue(narrow), Queue(wide))
        await bus.declare(Topology(queues=queues, bindings=tuple(Binding(EVENTS, "a.#", each.name) for each in queues)))
        for _ in range(9):
            await bus.publish(EVENTS, "a.b", Message(b"1"), mandatory=False)
        await ready(narrow, 3)
        await ready(wide, 9)


def test_a_virtual_host_of_its_own(shop, bare):
    services = bare.in_vhost(f"{bare.vhost}-own")
    lacking = shop("apply", services=services)
    assert (lacking.code, lacking.err.endswith("create it, or correct [bus] url\n")) == (2, True), lacking.err
    try:
        assert shop("apply", "--create-vhost", services=services).out.startswith(f"{COUNT}: ")
        assert shop("apply", "--create-vhost", services=services).out == f"{COUNT}: all there already\n"
    finally:
        bare.api("DELETE", f"/vhosts/{quote(services.vhost, safe='')}")


def test_users_may_use_what_lets_them_and_no_more(shop, bare):
    assert shop("apply").code == 0
    mark = uuid4().hex[:6]
    users = [
        User(f"shop-{mark}", ("event-publisher",), password="x", writes=("shop.events",)),
        User(f"audit-{mark}", ("event-subscriber",), password="x", reads=("shop.events", "shop.orders")),
    ]
    try:
        bare.api("POST", "/definitions", user_definitions(users, (), bare.vhost))
        anyio.run(_use, *(bare.as_user(user.name, "x") for user in users))
    finally:
        for user in users:
            bare.api("DELETE", f"/users/{user.name}")


async def _use(shop: Services, audit: Services) -> None:
    came = list[Event[Any]]()

    async def take(event: Event[Any]) -> None:
        came.append(event)

    async with (
        EventBus(shop.amqp_url, source="shop", exchange="shop.events") as publishing,
        EventBus(audit.amqp_url, source="audit", exchange="shop.events") as reading,
    ):
        await reading.subscribe("#", take, queue="shop.orders")
        await reading.subscribe("order.#", take, group="audit")
        await publishing.publish("order.paid")
        await until(lambda: len(came) == 2, "it came by the declared queue and by the group's")
        with pytest.raises(AccessRefused):
            await publishing.subscribe("#", take, queue="shop.orders")
        with pytest.raises(AccessRefused):
            await reading.publish("order.paid")
