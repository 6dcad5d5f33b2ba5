"""One harness for each implementation of `Coord`; a new one is one more entry of `HARNESSES`."""

import os
from collections.abc import AsyncIterator, Iterator

import anyio
import anyio.to_thread
import pytest
import pytest_asyncio
import redis

from fogactors.coord import Coord, MemoryCoord, MemoryStore
from fogactors.coord.redis import RedisCoord
from tests.services import RedisServer, ServiceUnavailable, skip_or_fail


class MemoryHarness:
    """Clients of one store, whose time the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.store = MemoryStore(lambda: self.now)

    def client(self) -> Coord:
        return MemoryCoord(self.store)

    async def advance(self, seconds: float) -> None:
        """Let this much of the store's time pass. An implementation with a clock of its own waits for it."""
        self.now += seconds

    async def wipe(self) -> None:
        """Lose all that is stored."""
        for what in ("results", "leases", "beats", "broker_beats", "claims", "cancelled", "attempts"):
            self.store.expire_now(what)
        self.store.letters.wipe()


class RedisHarness:
    """Clients of a real Redis, emptied before each test. Its time passes by itself."""

    def __init__(self) -> None:
        self.url = os.environ.get("FOGACTORS_TEST_REDIS_URL", "")
        if not self.url:
            skip_or_fail(ServiceUnavailable("FOGACTORS_TEST_REDIS_URL names no Redis"))
        self._flush()

    def _flush(self) -> None:
        with redis.Redis.from_url(self.url) as client:
            client.flushdb()

    def client(self) -> Coord:
        return RedisCoord(self.url)

    async def advance(self, seconds: float) -> None:
        await anyio.sleep(seconds)

    async def wipe(self) -> None:
        await anyio.to_thread.run_sync(self._flush)


HARNESSES = {"memory": MemoryHarness, "redis": RedisHarness}


@pytest.fixture(params=HARNESSES)
def harness(request):
    return HARNESSES[request.param]()


@pytest_asyncio.fixture
async def coord(harness) -> AsyncIterator[Coord]:
    client = harness.client()
    yield client
    await client.close()


@pytest_asyncio.fixture
async def other(harness) -> AsyncIterator[Coord]:
    """Another client of the same store."""
    client = harness.client()
    yield client
    await client.close()


USERS = {
    "results": "on >secret ~fog:result:* ~fog:attempt:* resetchannels +@all",
    "other": "on >secret ~other:* &other:* +@all",
}


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """A Redis that the test may kill."""
    redis = RedisServer(users=USERS)
    try:
        anyio.run(redis.start)
    except ServiceUnavailable as error:
        skip_or_fail(error)
    yield redis
    anyio.run(redis.stop, 0)
