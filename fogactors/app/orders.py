"""Reaching the roles that run on a broker, from a command: to give them orders, to find a task, to end one."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio

from fogactors.app.reach import connect_broker
from fogactors.app.settings import Settings
from fogactors.bus import Bus
from fogactors.bus.amqp import AmqpBus
from fogactors.coord.redis import RedisCoord
from fogactors.errors import AccessRefused, BusUnavailable, ConfigError
from fogactors.messages import Command, ControlReply
from fogactors.tasks.orders import ANSWER_S, Orders
from fogactors.tasks.tracker import Tracker

__all__ = ["ANSWER_S", "give", "reach", "tracking"]

CLOSE_S = 3.0


@asynccontextmanager
async def reach(settings: Settings) -> AsyncGenerator[Bus]:
    """A connection to the broker on which the roles run. Raises `ConfigError` on the embedded bus, where nobody else
    is; `BusUnavailable`, `AccessRefused`."""
    bus = AmqpBus(_remote(settings).bus.url, name=f"{settings.node.name}/order")
    await connect_broker(bus, settings)
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
    """What finds tasks and cancels them. It connects to the broker beside the questions to the coordination store,
    which need none: that either is away only its methods say. Raises `ConfigError` on the embedded bus."""
    bus = _LateBus(_remote(settings).bus.url, name=f"{settings.node.name}/order")
    coord = RedisCoord(settings.coord.url, name=f"{settings.node.name}-order")
    async with anyio.create_task_group() as beside:
        beside.start_soon(bus.connect, settings)
        try:
            yield Tracker(bus, coord, result_ttl_s=settings.coord.result_ttl_s)
        finally:
            with anyio.move_on_after(CLOSE_S, shield=True):
                await bus.close()
                await coord.close()
            beside.cancel_scope.cancel()


class _LateBus(AmqpBus):
    """One that is handed out before it is connected; who waits for it hears why it did not come."""

    def __init__(self, url: str, *, name: str) -> None:
        super().__init__(url, name=name)
        self._tried = anyio.Event()
        self._failure: BusUnavailable | AccessRefused | None = None

    async def connect(self, settings: Settings) -> None:
        try:
            await connect_broker(self, settings)
        except (BusUnavailable, AccessRefused) as error:
            self._failure = error
        finally:
            self._tried.set()

    async def wait_open(self) -> None:
        # Shielded, because those who wait count on a connection that comes back in a moment; this is the first one, and
        # has `boot_wait_s`.
        with anyio.CancelScope(shield=True):
            await self._tried.wait()
        if self._failure is not None:
            raise self._failure
        await super().wait_open()


def _remote(settings: Settings) -> Settings:
    if settings.bus.url.startswith("memory:"):
        raise ConfigError("[bus] url is memory://: there is nobody to talk to; name the RabbitMQ that the roles run on")
    return settings
