"""Cancellations, claims and the index of dead letters on a Redis that forgets, or holds what is not ours."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
import pytest_asyncio

from fogactors.coord import Claim, MemoryCoord, MemoryStore, ParkedLetter, done_channel
from fogactors.coord.redis import RedisCoord
from fogactors.coord.scripts_letters import KEYS
from fogactors.messages import DeadLetterFate, TaskResult
from tests.coord.far import client, far, lose_the_answer
from tests.services import RedisServer

pytestmark = [pytest.mark.services, pytest.mark.asyncio]

AT = datetime(2026, 1, 1, tzinfo=UTC)
LETTERS = [ParkedLetter(id=each, offset=n, reason="failed", first=AT, last=AT) for n, each in enumerate("abc")]
FATE = DeadLetterFate(id="b", state="purged", at=AT)
CANCELLED = TaskResult(task_id="me-1", name="t", state="cancelled", finished=AT)


@pytest_asyncio.fixture
async def coord(server: RedisServer) -> AsyncIterator[RedisCoord]:
    async with client(server.url) as coord:
        await coord._client.flushdb()
        yield coord


async def ids(coord: RedisCoord) -> list[str]:
    return [letter.id async for found in coord.letters.scan(2) for letter in found]


@pytest.mark.usefixtures("coord")
async def test_a_lost_answer_changes_no_answer(server: RedisServer):
    async with far(server) as (coord, proxy), client(server.url) as other:
        async with other.listen(done_channel("me-1")) as notices:
            assert await lose_the_answer(proxy, coord.cancel(CANCELLED)) == CANCELLED
            await coord.notify(done_channel("me-1"), "next")
            assert [await anext(notices), await anext(notices)] == ["me-1", "next"]
        assert await lose_the_answer(proxy, coord.claim("k", "me-1", ttl_s=60)) == Claim("me-1", confirmed=False)
        await lose_the_answer(proxy, coord.confirm("k", "me-1", ttl_s=60))
        assert await other.claim("k", "you-1", ttl_s=60) == Claim("me-1", confirmed=True)
        assert await lose_the_answer(proxy, coord.letters.apply(None, LETTERS, 2)) == 2
        await lose_the_answer(proxy, coord.letters.mark(FATE))
        assert await ids(coord) == ["a", "c"]


async def test_scripts_are_loaded_again_where_they_were_forgotten(coord: RedisCoord):
    assert await coord.letters.apply(None, LETTERS[:1], 0) == 0
    await coord._client.script_flush()
    assert await coord.letters.apply(0, LETTERS[1:], 2) == 2
    await coord._client.script_flush()
    assert await coord.letters.count() == 3
    await coord._client.script_flush()
    assert await coord.cancel(CANCELLED) == CANCELLED


def anything(rng: random.Random, offset: int) -> ParkedLetter | DeadLetterFate:
    id, generation, at = rng.choice("abcdef"), rng.randrange(3), AT + timedelta(seconds=rng.randrange(9))  # noqa: A001
    if rng.random() < 0.5:
        state = rng.choice(["parked", "replayed", "replayed", "purged"])
        return DeadLetterFate(id=id, generation=generation, state=state, at=at, by=str(offset))
    revision, error = rng.randrange(3), str(offset)
    return ParkedLetter(
        id=id, offset=offset, reason="failed", generation=generation, revision=revision, error=error, first=at, last=at
    )


@pytest.mark.parametrize("seed", range(10))
async def test_it_keeps_the_rules_as_the_one_in_memory_does(coord: RedisCoord, seed: int):
    rng, memory = random.Random(seed), MemoryCoord(MemoryStore())
    at = None
    for start in range(0, 300, 6):
        records = [anything(rng, offset) for offset in range(start, start + rng.randint(1, 6))]
        for index in (coord.letters, memory.letters):
            assert await index.apply(at, records, start + 5) == start + 5
        at = start + 5
        if isinstance(fate := anything(rng, 0), DeadLetterFate):
            for index in (coord.letters, memory.letters):
                await index.mark(fate)
        if rng.random() < 0.1:
            before = AT + timedelta(seconds=rng.randrange(9))
            assert await coord.letters.sweep(before) == await memory.letters.sweep(before)
        assert [found async for found in coord.letters.scan()] == [found async for found in memory.letters.scan()]
        assert await coord.letters.count() == await memory.letters.count()


@pytest.mark.parametrize("key", KEYS)
async def test_an_index_with_a_key_of_a_foreign_type_is_forgotten_and_built_again(coord: RedisCoord, key: str):
    await coord.letters.apply(None, LETTERS, 2)
    await coord._client.delete(key)
    await coord._client.lpush(key, "not ours")
    assert await coord.letters.apply(2, [], 3) is None
    assert (await ids(coord), await coord.letters.count(), await coord.letters.get("a")) == ([], 0, None)
    assert await coord.letters.apply(None, LETTERS, 2) == 2
    assert await ids(coord) == ["a", "b", "c"]


@pytest.mark.parametrize("read", ["position", "count", "get", "ids", "sweep", "mark"])
async def test_whatever_comes_first_finds_a_foreign_key(coord: RedisCoord, read: str):
    for key in KEYS:
        await coord._client.lpush(key, "not ours")
    calls = {
        "position": coord.letters.position,
        "count": coord.letters.count,
        "get": lambda: coord.letters.get("a"),
        "ids": lambda: ids(coord),
        "sweep": lambda: coord.letters.sweep(AT),
        "mark": lambda: coord.letters.mark(FATE),
    }
    assert not await calls[read]()
    assert await coord.letters.apply(None, LETTERS, 2) == 2


@pytest.mark.parametrize("junk", [b"", b"\xff\x00", b"7", b"null", b"{}", b'{"id":"b"', b'[{"id":"b"}]'])
async def test_what_cannot_be_read_is_passed_over_and_written_over(coord: RedisCoord, junk: bytes):
    await coord.letters.apply(None, LETTERS, 2)
    await coord._client.hset(KEYS[0], "b", junk)
    await coord._client.hset(KEYS[2], "a", junk)
    await coord._client.zadd(KEYS[1], {b"\xff nobody": 1.5})
    assert await ids(coord) == ["a", "c"]
    assert await coord.letters.get("b") is None
    assert await coord.letters.get("a") == LETTERS[0]
    assert await coord.letters.apply(2, [LETTERS[1], DeadLetterFate(id="a", state="replayed", at=AT)], 4) == 4
    assert await coord.letters.get("b") == LETTERS[1]
    assert (await coord.letters.get("a")).state == "replayed"


@pytest.mark.parametrize("junk", ["", "x", "-1", "nan", "1e3"])
async def test_a_position_that_is_none_is_none(coord: RedisCoord, junk: str):
    await coord.letters.apply(None, LETTERS, 2)
    await coord._client.set(KEYS[4], junk)
    assert await coord.letters.position() is None
    assert await coord.letters.apply(2, [], 3) is None
    assert await coord.letters.apply(None, [*LETTERS, FATE], 3) == 3
    assert await ids(coord) == ["a", "c"]


async def test_foreign_values_among_cancellations_and_claims(coord: RedisCoord):
    await coord._client.lpush("fog:cancelled", "not ours")
    assert await coord.cancelled() == {}
    assert await coord.cancel(CANCELLED) == CANCELLED
    await coord._client.zadd("fog:cancelled", dict.fromkeys([b"\xff", b":", b"x:me-2", b"3:", b"-1:me-3"], 9e15))
    assert await coord.cancelled() == {"me-1": 0}

    await coord._client.lpush("fog:once:a", "not ours")
    await coord._client.set("fog:once:b", "not ours")
    for key in "ab":
        assert await coord.claim(key, "me-1", ttl_s=60) == Claim("me-1", confirmed=False)


async def test_cancellations_whose_time_is_over_do_not_stay(coord: RedisCoord):
    await coord._client.zadd("fog:cancelled", {f"0:old-{n}": 1.0 for n in range(250)})
    for _ in range(3):
        await coord.cancel(CANCELLED)
    assert await coord._client.zrange("fog:cancelled", 0, -1) == [b"0:me-1"]


async def test_a_full_store_lets_one_purge(coord: RedisCoord):
    await coord.letters.apply(None, LETTERS, 2)
    await coord._client.config_set("maxmemory", "1kb")
    try:
        await coord.letters.mark(FATE)
    finally:
        await coord._client.config_set("maxmemory", "0")
    assert await ids(coord) == ["a", "c"]
    assert await coord.letters.sweep(datetime.now(UTC)) == 2
