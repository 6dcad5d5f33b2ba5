"""A broker and a store of a module's own, for tests that kill them; and a program in this process that stands on them.

@pytest.fixture(scope="module", params=["4.3"])
def own(request):
    with Own.open(request.param) as own:
        yield own
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import anyio

from fogactors.app.program import Program
from fogactors.app.settings import BusSettings, CoordSettings, NodeSettings, Settings
from fogactors.core import Events
from fogactors.errors import BusError
from fogactors.tasks.client import Submitter
from fogactors.tasks.registry import Registry
from fogactors.testing import EventRecorder
from tests.integration.fog import Services, apply_topology, connected
from tests.services import Boot, RabbitMQ, RedisServer, ServiceUnavailable, skip_or_fail


@dataclass(frozen=True)
class Own:
    """`services`: their URLs, with the topology in place."""

    broker: RabbitMQ
    redis: RedisServer

    @classmethod
    @contextmanager
    def open(cls, version: str = "4.3", **broker: Any) -> Iterator[Own]:
        """`broker`: what `RabbitMQ` takes besides."""
        own = cls(RabbitMQ(version, **broker), RedisServer())
        try:
            try:
                anyio.run(own._start)
            except ServiceUnavailable as error:
                skip_or_fail(error)
            yield own
        finally:
            anyio.run(own._stop)

    @property
    def services(self) -> Services:
        return Services(self.broker.amqp_url, self.broker.management_url, self.redis.url)

    async def restart_broker(self, *, kill: bool) -> Boot:
        if kill:
            await self.broker.kill9()
        return await self.broker.restart()

    async def _start(self) -> None:
        await self.broker.start()
        await self.redis.start()
        await apply_topology(self.services)
        await self.broker.flush_declarations()

    async def _stop(self) -> None:
        await self.broker.stop(grace_s=0)
        await self.redis.stop(grace_s=0)


@dataclass(frozen=True)
class Running:
    """A program in this process. `recorder` has every event since its start."""

    program: Program
    submitter: Submitter
    recorder: EventRecorder


@asynccontextmanager
async def running(
    services: Services, registry: Registry, *roles: str, tiers: tuple[str, ...] = ("light",), **tables: Any
) -> AsyncIterator[Running]:
    """`roles` in this process, and a submitter. `tables`: of the settings, in place of the defaults."""
    events = Events()
    recorder = EventRecorder(events)
    places = {"bus": BusSettings(url=services.amqp_url), "coord": CoordSettings(url=services.redis_url)}
    settings = Settings(**{"node": NodeSettings(name="here"), **places, **tables})
    async with (
        Program.start(settings, roles, tiers=tiers, events=events, registry=registry) as program,
        program.submitter() as submitter,
    ):
        yield Running(program, submitter, recorder)


async def consumers(services: Services, *queues: str) -> dict[str, int]:
    """How many the broker counts on each; none while it cannot be asked."""
    try:
        async with connected(services) as bus:
            return {queue: (await bus.inspect(queue)).consumers for queue in queues}
    except BusError:
        return {}


def through(services: Services, port: int) -> Services:
    """With the broker behind a proxy on this port of the loopback."""
    return replace(services, amqp_url=services.amqp_url.replace(f"@{services.address}/", f"@127.0.0.1:{port}/"))


def monotonic(at: datetime) -> float:
    """What `time.monotonic` said at a moment of the wall clock."""
    return at.timestamp() - time.time() + time.monotonic()
