"""One harness for each implementation of `Coord`; a new one is one more entry of `HARNESSES`."""

import os
from collections.abc import AsyncIterator

import anyio
import pytest
import pytest_asyncio
import redis

from fogactors.coord import Coord, MemoryCoord, MemoryStore
from fogactors.coord.redis import RedisCoord
from tests.services.errors import ServiceUnavailable, skip_or_fail


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


class RedisHarness:
    """Clients of a real Redis, emptied before each test. Its time passes by itself."""

    def __init__(self) -> None:
        self.url = os.environ.get("FOGACTORS_TEST_REDIS_URL", "")
        if not self.url:
            skip_or_fail(ServiceUnavailable("FOGACTORS_TEST_REDIS_URL names no Redis"))
        with redis.Redis.from_url(self.url) as client:
            client.flushdb()

    def client(self) -> Coord:
        return RedisCoord(self.url)

    async def advance(self, seconds: float) -> None:
        await anyio.sleep(seconds)


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
