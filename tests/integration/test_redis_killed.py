"""Redis, as its image is configured, dies under load: every task that was confirmed has its end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import anyio
import pytest
from msgspec import Raw

from fogactors.bus.amqp import AmqpBus
from fogactors.tasks.client import Submitter
from tests.images.conf import redis_manner
from tests.integration.fog import Fog, connected, store, submitting, until
from tests.services import RedisServer, ServiceUnavailable, skip_or_fail
from tests.services.power import MortalRedis
from tests.services.stall import REDIS_SYNC, held_thread

pytestmark = [pytest.mark.services, pytest.mark.asyncio]

PER_S = 100
TICK_S = 0.1
MOST_WAITING = 100
AWAY_S = 10.0
SYNC_S = 1.6
SILENT_S = 20.0


@dataclass
class Load:
    """Tasks at a steady rate, or as fast as the machine can run them. `confirmed`: their ids and when, by the loop's
    clock."""

    submitter: Submitter
    bus: AmqpBus
    task: str
    confirmed: dict[str, float] = field(default_factory=dict)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """All that it has begun to publish is confirmed and in the account at the end."""
        async with anyio.create_task_group() as group:
            stopped = anyio.Event()
            group.start_soon(self._submit, stopped)
            yield
            stopped.set()

    async def _submit(self, stopped: anyio.Event) -> None:
        while not stopped.is_set():
            if (await self.bus.inspect("tasks.normal")).ready < MOST_WAITING:
                async with anyio.create_task_group() as publishes:
                    for _ in range(int(PER_S * TICK_S)):
                        publishes.start_soon(self._one)
            await anyio.sleep(TICK_S)

    async def _one(self) -> None:
        handle = await self.submitter.submit_raw(self.task, Raw(b'{"a": 1}'))
        self.confirmed[handle.id] = anyio.current_time()

    async def wait(self, more: int) -> None:
        """Until this many more are confirmed."""
        enough = len(self.confirmed) + more
        await until(lambda: len(self.confirmed) >= enough, f"{enough} confirmed tasks")


@asynccontextmanager
async def redis_of_the_image(fog: Fog, kind: type[RedisServer]) -> AsyncIterator[RedisServer]:
    server = kind(config=redis_manner())
    try:
        await server.start()
    except ServiceUnavailable as error:
        skip_or_fail(error)
    fog.services = replace(fog.services, redis_url=server.url)
    try:
        yield server
    finally:
        with anyio.CancelScope(shield=True):
            await server.stop(grace_s=0)


async def kill(server: RedisServer) -> None:
    await server.kill9()


async def kill_while_a_sync_does_not_end(server: RedisServer) -> None:
    """Where another thread syncs its file, Redis keeps what it should write to itself meanwhile, for two seconds at
    most, and has answered already; which is longer than this takes."""
    try:
        async with held_thread(server.pid, REDIS_SYNC):
            await anyio.sleep(SYNC_S)
            await server.kill9()
    except ServiceUnavailable as error:
        skip_or_fail(error)


async def cut_the_power(server: RedisServer) -> None:
    assert isinstance(server, MortalRedis)
    await server.power_cut()


async def without_end(fog: Fog, ids: set[str]) -> set[str]:
    """Those that have neither a record nor a dead letter when no more of them get one."""
    open_ids, news_at = set(ids), anyio.current_time()
    async with store(fog.services) as coord:
        while open_ids and anyio.current_time() < news_at + SILENT_S:
            dead = {each.task_id async for letters in coord.letters.scan() for each in letters}
            ended = [each for each in open_ids if each in dead or await coord.result(each) is not None]
            if ended:
                open_ids.difference_update(ended)
                news_at = anyio.current_time()
            await anyio.sleep(0.5)
    return open_ids


@pytest.mark.parametrize(
    ("kind", "end"),
    [(RedisServer, kill), (RedisServer, kill_while_a_sync_does_not_end), (MortalRedis, cut_the_power)],
    ids=["killed", "killed-in-a-sync", "power-cut"],
)
async def test_when_redis_dies_under_load_every_confirmed_task_has_its_end(fog, kind, end):
    async with (
        redis_of_the_image(fog, kind) as server,
        submitting(fog.services) as submitter,
        connected(fog.services) as bus,
    ):
        reaper, executor = await fog.role("dlq-reaper"), await fog.executor()
        load = Load(submitter, bus, f"{fog.module}.add")
        async with load.running():
            await load.wait(PER_S)
            await end(server)
            killed = anyio.current_time()
            await anyio.sleep(AWAY_S)  # the length of the fault, not a wait for anything
            await server.start()
            await load.wait(PER_S)
        lost = await without_end(fog, set(load.confirmed))
        when = sorted(round(load.confirmed[each] - killed, 2) for each in lost)
        assert not lost, f"{len(lost)} of {len(load.confirmed)}, confirmed {when[0]} to {when[-1]} s from its death"
        assert executor.logged("ResultUnrecorded")[0]["away"], "nothing was recorded while it was away"
        assert [(await each.stop()).code for each in (reaper, executor)] == [0, 0]
