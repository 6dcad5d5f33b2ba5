"""Reaching the roles that run on a broker, from a command: to give them orders, to find a task, to end one."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio

from fogactors.app.settings import Settings
from fogactors.bus import Bus
from fogactors.bus.amqp import AmqpBus
from fogactors.coord.redis import RedisCoord
from fogactors.errors import ConfigError
from fogactors.messages import Command, ControlReply
from fogactors.tasks.orders import ANSWER_S, Orders
from fogactors.tasks.tracker import Tracker

__all__ = ["ANSWER_S", "give", "reach", "tracking"]

CLOSE_S = 3.0


@asynccontextmanager
async def reach(settings: Settings) -> AsyncGenerator[Bus]:
    """A connection to the broker on which the roles run. Raises `ConfigError` on the embedded bus, where nobody else
    is; `BusUnavailable`, `AccessRefused`."""
    if settings.bus.url.startswith("memory:"):
        raise ConfigError("[bus] url is memory://: there is nobody to talk to; name the RabbitMQ that the roles run on")
    bus = AmqpBus(settings.bus.url, name=f"{settings.node.name}/order")
    await bus.open(timeout=max(1.0, settings.bus.boot_wait_s))
    try:
        yield bus
    finally:
        with anyio.move_on_after(CLOSE_S, shield=True):
            await bus.close()


async def give(
    settings: Settings,
    command: Command,
    *,
    node: str | None = None,
    role: str | None = None,
    wait_s: float = ANSWER_S,
) -> list[ControlReply]:
    """Give an order to every role, or to those named; returns the answers that came within `wait_s`, by node and role.

    Raises what `reach` raises.
    """
    async with reach(settings) as bus:
        return await Orders(bus).ask(command, node=node, role=role, wait_s=wait_s)


@asynccontextmanager
async def tracking(settings: Settings) -> AsyncGenerator[Tracker]:
    """What finds tasks and cancels them. Raises what `reach` raises; that the coordination store is away only its
    methods say."""
    async with reach(settings) as bus:
        coord = RedisCoord(settings.coord.url, name=f"{settings.node.name}-order")
        try:
            yield Tracker(bus, coord, result_ttl_s=settings.coord.result_ttl_s)
        finally:
            with anyio.move_on_after(CLOSE_S, shield=True):
                await coord.close()
