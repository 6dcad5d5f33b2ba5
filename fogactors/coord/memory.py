"""The coordination store in memory: what users test with, and what one process alone runs on.

`MemoryStore` is the shared state, `MemoryCoord` one client of it; several clients of one store see each
other as several clients of one Redis would. The store has the faults of a Redis too, as switches: `away`,
`full`, `drop_notices` and `expire_now`.

One event loop at a time; only a beat writer may be used from another thread.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
from anyio.lowlevel import checkpoint
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from fogactors.coord.base import (
    CANCEL_KEEP_S,
    RESULT_TTL_S,
    BeatWriter,
    Claim,
    Copy,
    Lease,
    Notices,
    Recorded,
)
from fogactors.coord.cluster import ClusterMembers
from fogactors.coord.letters import LetterIndex
from fogactors.coord.memory_letters import MemoryLetters
from fogactors.coord.memory_store import MemoryStore
from fogactors.errors import CoordUnavailable
from fogactors.messages import Beat, TaskResult

__all__ = ["MemoryCoord"]


class _Notices:
    """One subscription's notices, in the order in which they were sent."""

    def __init__(self, stream: MemoryObjectReceiveStream[str]) -> None:
        self._stream = stream

    def __aiter__(self) -> _Notices:
        return self

    async def __anext__(self) -> str:
        try:
            return await self._stream.receive()
        except (anyio.EndOfStream, anyio.ClosedResourceError):
            raise StopAsyncIteration from None


class _BeatWriter:
    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self._closed = False

    def write(self, beat: Beat, ttl_s: float) -> None:
        if self._closed:
            raise CoordUnavailable("this beat writer is closed")
        self._store.reach(storing=True)
        self._store.beat(beat, ttl_s)

    def broker_beat(self, node: str, ttl_s: float) -> None:
        if self._closed:
            raise CoordUnavailable("this beat writer is closed")
        self._store.reach(storing=True)
        self._store.broker_beat(node, ttl_s)

    def close(self) -> None:
        self._closed = True


class MemoryCoord(ClusterMembers):
    """One client of a `MemoryStore`; implements `Coord`, where the methods are described.

    Like a Redis client it needs no `open` to work (that only asks whether the store answers), and each call
    gives way to other tasks before it acts, so that a race which Redis would show can show here.
    """

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self._closed = False
        self._subscriptions: set[MemoryObjectSendStream[str]] = set()
        self._letters = MemoryLetters(store.letters, self._reach)

    async def _reach(self, *, storing: bool = False) -> MemoryStore:
        await checkpoint()
        if self._closed:
            raise CoordUnavailable("this client of the coordination store is closed")
        self._store.reach(storing=storing)
        return self._store

    async def open(self, timeout: float = 10.0) -> None:
        self._closed = False
        await self._reach()

    async def close(self) -> None:
        self._closed = True
        for sender in self._subscriptions:
            sender.close()

    async def record(self, result: TaskResult, *, ttl_s: float = RESULT_TTL_S) -> Recorded:
        return (await self._reach(storing=True)).record(result, ttl_s)

    async def result(self, task_id: str) -> TaskResult | None:
        return (await self._reach()).result(task_id)

    async def cancel(
        self, result: TaskResult, *, ttl_s: float = RESULT_TTL_S, keep_s: float = CANCEL_KEEP_S
    ) -> TaskResult:
        return (await self._reach(storing=True)).cancel(result, ttl_s, keep_s)

    async def cancelled(self) -> dict[str, int]:
        return (await self._reach()).cancelled()

    async def claim(self, key: str, task_id: str, *, ttl_s: float) -> Claim:
        return (await self._reach(storing=True)).claim(key, task_id, ttl_s)

    async def begin(self, copy: Copy, *, ttl_s: float) -> int:
        return (await self._reach(storing=True)).begin(copy, ttl_s)

    async def take_back(self, copy: Copy) -> None:
        (await self._reach()).take_back(copy)

    async def confirm(self, key: str, task_id: str, *, ttl_s: float) -> None:
        (await self._reach(storing=True)).confirm(key, task_id, ttl_s)

    @property
    def letters(self) -> LetterIndex:
        return self._letters

    async def notify(self, channel: str, payload: str) -> None:
        (await self._reach()).publish(channel, payload)

    @asynccontextmanager
    async def listen(self, channel: str) -> AsyncGenerator[Notices]:
        store = await self._reach()
        sender, receiver = store.subscribe(channel)
        self._subscriptions.add(sender)
        try:
            with sender, receiver:
                yield _Notices(receiver)
        finally:
            self._subscriptions.discard(sender)
            store.unsubscribe(channel, sender)

    async def acquire(self, name: str, owner: str, ttl_s: float) -> Lease | None:
        return (await self._reach(storing=True)).acquire(name, owner, ttl_s)

    async def renew(self, lease: Lease) -> None:
        (await self._reach()).renew(lease)

    async def release(self, lease: Lease) -> None:
        (await self._reach()).release(lease)

    async def holder(self, name: str) -> str | None:
        return (await self._reach()).holder(name)

    async def join(self, group: str, member: str) -> None:
        (await self._reach(storing=True)).join(group, member)

    async def leave(self, group: str, member: str, *, lease: Lease | None = None) -> None:
        (await self._reach()).leave(group, member, lease)

    async def members(self, group: str) -> frozenset[str]:
        return (await self._reach()).members(group)

    async def beat(self, beat: Beat, ttl_s: float) -> None:
        (await self._reach(storing=True)).beat(beat, ttl_s)

    async def beats(self) -> list[Beat]:
        return (await self._reach()).beats()

    def beat_writer(self) -> BeatWriter:
        return _BeatWriter(self._store)

    async def broker_beat(self, node: str, ttl_s: float) -> None:
        (await self._reach(storing=True)).broker_beat(node, ttl_s)

    async def broker_beats(self) -> frozenset[str]:
        return (await self._reach()).broker_beats()

    async def expire_members(self, lease: Lease, looked_s: float) -> list[str]:
        return (await self._reach()).expire_members(lease, looked_s)
