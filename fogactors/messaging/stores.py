"""The coordination store of a pattern: by its URL, or one that knows nothing where there is none."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

import anyio

from fogactors.coord.base import CANCEL_KEEP_S, RESULT_TTL_S, UNCOUNTED, Claim, Coord, Copy, Notices, Recorded
from fogactors.coord.memory import MemoryCoord
from fogactors.coord.memory_store import MemoryStore
from fogactors.errors import ConfigError
from fogactors.messages import TaskResult
from fogactors.messaging.embedded import MEMORY, embedded_store

__all__ = ["NO_STORE", "Storeless", "close_store", "make_store"]

CLOSE_S: Final = 3.0
NO_STORE: Final = "it has no store; give it one: store='redis://...'"


def make_store(url: str | None, name: str) -> Coord | None:
    """A client of the store, which connects when it is asked. Raises `ConfigError` for what is no URL of one."""
    if url is None:
        return None
    if url.startswith(MEMORY):
        return MemoryCoord(embedded_store(url))
    if not url.startswith(("redis://", "rediss://")):
        raise ConfigError(f"{name}: the URL of a store begins with redis://, rediss:// or memory://")
    from fogactors.coord.redis import RedisCoord  # here, so that who needs no Redis does not load its client

    return RedisCoord(url, name=name)


async def close_store(coord: Coord) -> None:
    with anyio.move_on_after(CLOSE_S, shield=True):
        await coord.close()


class Storeless(MemoryCoord):
    """Of a task queue without a store. Work is done without one: nothing is recorded, so nothing is known of what ran
    before. What cannot be had without one is refused."""

    def __init__(self, name: str) -> None:
        super().__init__(MemoryStore())
        self._name = name

    async def record(self, result: TaskResult, *, ttl_s: float = RESULT_TTL_S) -> Recorded:
        return "recorded"

    async def begin(self, copy: Copy, *, ttl_s: float) -> int:
        return UNCOUNTED

    async def cancel(
        self, result: TaskResult, *, ttl_s: float = RESULT_TTL_S, keep_s: float = CANCEL_KEEP_S
    ) -> TaskResult:
        raise ConfigError(f"{self._name}: a task cannot be cancelled, because {NO_STORE}")

    async def claim(self, key: str, task_id: str, *, ttl_s: float) -> Claim:
        raise ConfigError(f"{self._name}: an idempotency_key is of no use, because {NO_STORE}")

    @asynccontextmanager
    async def listen(self, channel: str) -> AsyncGenerator[Notices]:
        await anyio.sleep_forever()
        raise AssertionError
        yield
