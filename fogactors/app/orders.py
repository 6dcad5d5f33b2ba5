"""Giving orders to the roles that run on a broker, and collecting who answered."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from typing import Final

import anyio

from fogactors.app.settings import Settings
from fogactors.bus import Delivery, Message
from fogactors.bus.amqp import AmqpBus
from fogactors.errors import BusUnavailable, ConfigError, WireError
from fogactors.messages import Command, Control, ControlReply
from fogactors.wire.codec import decode, encode
from fogactors.wire.topology import CONTROL, RESULTS

__all__ = ["ANSWER_S", "give"]

ANSWER_S: Final = 1.0
"""How long answers are collected: nobody knows how many there will be."""


async def give(
    settings: Settings,
    command: Command,
    *,
    node: str | None = None,
    role: str | None = None,
    task_id: str | None = None,
    wait_s: float = ANSWER_S,
) -> list[ControlReply]:
    """Give an order to every role, or to those named; returns the answers that came within `wait_s`, by node and role.

    Raises `ConfigError` on the embedded bus, where nobody else is; `BusUnavailable`, `AccessRefused`.
    """
    if settings.bus.url.startswith("memory:"):
        raise ConfigError("[bus] url is memory://: there is nobody to talk to; name the RabbitMQ that the roles run on")
    replies: list[ControlReply] = []

    def collect(delivery: Delivery) -> None:
        try:
            reply = decode(delivery.body, ControlReply, delivery.content_type)
        except WireError:
            return
        if reply.id == control.id:
            replies.append(reply)

    id_ = secrets.token_hex(8)
    reply_to = f"reply.{id_}"
    control = Control(
        id=id_, command=command, at=datetime.now(UTC), node=node, role=role, task_id=task_id, reply_to=reply_to
    )
    bus = AmqpBus(settings.bus.url, name=f"{settings.node.name}/order")
    await bus.open(timeout=max(1.0, settings.bus.boot_wait_s))
    try:
        queue = await bus.open_exclusive(f"ctl.order.{id_}", ((RESULTS, reply_to),))
        await bus.consume(queue, collect, prefetch=1000)
        message = Message(encode(control), type="control", reply_to=reply_to, correlation_id=id_, persistent=False)
        await bus.publish(CONTROL, "", message, mandatory=False, timeout=settings.bus.publish_timeout_s)
        with anyio.move_on_after(wait_s):
            raise BusUnavailable(f"while waiting for answers: {await bus.wait_lost()}")
    finally:
        with anyio.move_on_after(3.0, shield=True):
            await bus.close()
    return sorted(replies, key=lambda reply: (reply.node, reply.role))
