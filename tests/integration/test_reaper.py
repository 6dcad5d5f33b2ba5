"""The reaper as a process of its own: what it was killed with is not lost, and the index comes back.

Each test has a Redis of its own: the index is of one stream, and the other modules' reapers have theirs in the shared
one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from urllib.parse import quote
from uuid import uuid4

import anyio
import pytest
import redis.asyncio
from msgspec import Raw

from fogactors.bus import Message
from fogactors.bus.base import Bus
from fogactors.coord.redis import RedisCoord
from fogactors.messages import DeadLetter, DeadLetterFate
from fogactors.tasks.deadletter import FATE_TYPE, publish_letter
from fogactors.wire.codec import decode
from fogactors.wire.topology import PARKED, TASK_DELIVERY_LIMIT
from tests.integration.fog import Command, Fog, Services, connected, store, submitting, until
from tests.services import RedisServer, ServiceUnavailable, skip_or_fail

pytestmark = [pytest.mark.services, pytest.mark.versions, pytest.mark.asyncio]

KILLS = 25
AHEAD = 2
"""Processes that start while another is killed: a start takes a second."""


@asynccontextmanager
async def own_index(fog: Fog) -> AsyncIterator[RedisCoord]:
    server = RedisServer()
    try:
        await server.start()
    except ServiceUnavailable as error:
        skip_or_fail(error)
    fog.services = replace(fog.services, redis_url=server.url)
    try:
        async with store(fog.services) as coord:
            yield coord
    finally:
        with anyio.CancelScope(shield=True):
            await server.stop(grace_s=0)


@contextmanager
def unbound(services: Services, exchange: str) -> Iterator[None]:
    """What is published there cannot be routed meanwhile."""
    vhost = quote(services.vhost, safe="")
    place = f"/bindings/{vhost}/e/{exchange}/q/{exchange}"
    services.api("DELETE", f"{place}/~")
    try:
        yield
    finally:
        services.api("POST", place, {"routing_key": ""})


async def in_index(coord: RedisCoord, id_: str, **wanted: object) -> None:
    async def there() -> bool:
        entry = await coord.letters.get(id_)
        return entry is not None and all(getattr(entry, key) == value for key, value in wanted.items())

    await until(there, f"{id_} in the index with {wanted}")


async def in_stream(bus: Bus) -> list[DeadLetter | DeadLetterFate]:
    """All that is there, up to a mark of our own."""
    found, mark = [], uuid4().hex
    await bus.publish(PARKED, "", Message(b"", "mark", mark))
    consumer = await bus.consume(PARKED, found.append, prefetch=10_000, offset="first")
    await until(lambda: bool(found) and found[-1].message_id == mark, "the stream's end")
    await consumer.close()
    kinds = {FATE_TYPE: DeadLetterFate, "dead_letter": DeadLetter}
    return [decode(each.body, kinds[each.type]) for each in found if each.type in kinds]


async def lost_task(bus: Bus, id_: str) -> None:
    """The broker gives it up."""
    task = f'{{"schema":"task/1","id":"{id_}","name":"t","created":"2030-01-01T00:00:00Z"}}'
    await bus.publish("tasks.direct", "low_priority", Message(task.encode(), "task", correlation_id="order-7"))
    got = []
    consumer = await bus.consume("tasks.low_priority", got.append, prefetch=1)
    for n in range(TASK_DELIVERY_LIMIT + 1):
        await until(lambda n=n: len(got) == n + 1, "a delivery")
        await got[-1].requeue()
    await consumer.close()


async def deliveries(bus: Bus) -> int:
    """How often the only entry of `dlq` came back from who held it; to look is one more."""
    found = []
    consumer = await bus.consume("dlq", found.append, prefetch=1)
    await until(lambda: bool(found), "the entry")
    await consumer.close()
    return found[0].delivery_count or 0


async def killed_holding(fog: Fog, bus: Bus, count: int, **env: str) -> None:
    """Reapers, each killed -9 as soon as one has the only entry of `dlq` in its hands, until `count` have been killed
    that had it: the broker says how many, because it chooses who gets it next."""

    async def held() -> bool:
        return (await bus.inspect("dlq")).ready == 0

    before, looks, missing = await deliveries(bus), 1, count
    while missing > 0:
        ready = list[Command]()
        for n in range(missing):
            while len(ready) < min(AHEAD, missing - n):
                ready.append(fog.start("run", "dlq-reaper", **env))
            await ready[0].line(" is up ")
            await until(held, "one of them holds it")
            ready.pop(0).kill9()
        missing = count - (await deliveries(bus) - before - looks)
        looks += 1


@pytest.mark.slow
async def test_killed_25_times_with_the_same_entry_in_its_hands(fog):
    """First before the letter is in the stream, then behind it, where each leaves a copy."""
    id_ = f"lost-{uuid4().hex}"
    policy = {"DLQ__WORKER_LOST__REPLAY_AFTER_S": "1"}
    async with own_index(fog) as coord, connected(fog.services) as bus:
        with unbound(fog.services, "retry.1"):
            with unbound(fog.services, PARKED):
                await lost_task(bus, id_)
                await killed_holding(fog, bus, KILLS // 2, **policy)
            await killed_holding(fog, bus, KILLS - KILLS // 2, **policy)
        last = await fog.role("dlq-reaper", **policy)
        await in_index(coord, id_, state="replayed", generation=0)

        async def empty() -> bool:
            return (await bus.inspect("dlq")).ready == 0

        await until(empty, "dlq is empty")
        records = [record for record in await in_stream(bus) if record.id == id_]
        letters = [record for record in records if isinstance(record, DeadLetter)]
        assert 1 < len(letters) <= KILLS - KILLS // 2 + 1
        assert {(each.reason, each.attempts, each.origin) for each in letters} == {
            ("worker_lost", TASK_DELIVERY_LIMIT + 1, "tasks.low_priority")
        }
        assert {(each.generation, each.state) for each in records if isinstance(each, DeadLetterFate)} == {
            (0, "replayed")
        }
        assert len([entry async for batch in coord.letters.scan() for entry in batch if entry.id == id_]) == 1
        result = await coord.result(id_)
        assert (result.state, result.attempts) == ("worker_lost", TASK_DELIVERY_LIMIT + 1)

        async def back() -> bool:
            return (await bus.inspect("tasks.low_priority")).ready == 1

        await until(back, "replayed, once")
        assert (await last.stop()).code == 0
        await bus.purge("tasks.low_priority")
        assert (await bus.inspect("dlq")).ready == 0


async def test_an_index_that_was_flushed_comes_back(fog):
    async with own_index(fog) as coord, connected(fog.services) as bus:
        reaper = await fog.role("dlq-reaper")
        now = datetime.now(UTC)
        ids = [f"flushed-{n}-{uuid4().hex}" for n in range(300)]
        for id_ in ids:
            letter = DeadLetter(id=id_, reason="failed", body=b"x" * 1000, origin="q", first=now, last=now)
            await publish_letter(bus, PARKED, letter, timeout=10)
        await in_index(coord, ids[-1])
        before = {entry.id: entry async for batch in coord.letters.scan() for entry in batch}
        assert before.keys() >= set(ids)

        async with redis.asyncio.from_url(fog.services.redis_url) as client:
            await client.flushall()
        await reaper.line("LetterIndexBehind")

        async def whole() -> bool:
            return await coord.letters.count() == len(before)

        await until(whole, "the index is whole again")
        assert {entry.id: entry async for batch in coord.letters.scan() for entry in batch} == before
        assert (await reaper.stop()).code == 0


async def test_an_index_of_another_stream_is_brought_back_to_this_one(fog):
    """As after a broker that lost its data: the index stands where this stream will come in years."""
    async with own_index(fog) as coord, connected(fog.services) as bus:
        await coord.letters.apply(None, [], 1_000_000)
        now, id_ = datetime.now(UTC), f"anew-{uuid4().hex}"
        await publish_letter(
            bus, PARKED, DeadLetter(id=id_, reason="failed", body=b"", first=now, last=now), timeout=10
        )
        reaper = await fog.role("dlq-reaper")
        await in_index(coord, id_)
        assert await coord.letters.position() < 1_000_000
        assert not reaper.logged("ActorExited")


async def test_malformed_bytes_have_an_entry_with_all_that_is_known_at_their_first_delivery(fog):
    """Behaviour 13 of what users ask for, in the index; for those that an executor met and those that it did not."""
    async with own_index(fog) as coord, connected(fog.services) as bus:
        await fog.role("dlq-reaper")
        executor = await fog.executor()
        places = {
            f"met-{uuid4().hex}": ("tasks.direct", "normal", "/light", "tasks.normal"),
            f"unmet-{uuid4().hex}": ("results.topic", "results.pending", "/dlq-reaper", "results.pending"),
        }
        for id_, (exchange, key, worker, queue) in places.items():
            began = datetime.now(UTC)
            await bus.publish(exchange, key, Message(b"\xff\x00garbage", "", id_, correlation_id="order-7"))
            await in_index(coord, id_)
            entry = await coord.letters.get(id_)
            assert (entry.reason, entry.state, entry.queue, entry.attempts) == ("malformed", "parked", queue, 0)
            assert entry.error.startswith("WireError: ")
            assert entry.worker.endswith(worker)
            assert began <= entry.first <= entry.last <= datetime.now(UTC)
            assert (entry.correlation_id, entry.size) == ("order-7", 9)
        assert len(executor.logged("TaskDeadLettered")) == 1
        letters = [each for each in await in_stream(bus) if isinstance(each, DeadLetter) and each.id in places]
        assert [each.body for each in letters] == [b"\xff\x00garbage"] * 2


async def test_a_policy_replays_until_somebody_can(fog):
    """An unknown task is given up on, comes back by itself, and meets a worker that has been updated meanwhile."""
    policy = {"DLQ__UNKNOWN_TASK__REPLAY_AFTER_S": "1", "DLQ__UNKNOWN_TASK__MAX_REPLAYS": "1000"}
    async with own_index(fog) as coord, submitting(fog.services) as submitter:
        reaper = await fog.role("dlq-reaper", **policy)
        old = await fog.role("tier-executor", "--tier", "light")
        handle = await submitter.submit_raw(f"{fog.module}.add", Raw(b'{"a": 41}'))
        await reaper.line("DeadLetterReplayed")
        assert (await old.stop()).code == 0
        await fog.executor()

        async def succeeded() -> bool:
            result = await coord.result(handle.id)
            return result is not None and result.state == "succeeded"

        await until(succeeded, "its success is recorded over its failure")
        generation = (await coord.result(handle.id)).generation
        assert generation >= 1
        await in_index(coord, handle.id, state="replayed", generation=generation - 1, reason="unknown_task")
        entry = await coord.letters.get(handle.id)
        assert entry.by.endswith("/dlq-reaper")
