"""A dict whose entries run out, for the store in memory."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["Expiring"]

T = TypeVar("T")


class Expiring(Generic[T]):
    """`clock`: seconds from any origin. What is due is swept by the next write: no timer or task runs for it."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._entries: dict[str, tuple[float, T]] = {}
        # A renewal leaves its old due time in the heap; a few stale pairs cost less than finding them.
        self._due: list[tuple[float, str]] = []

    def __len__(self) -> int:
        """Also those that ran out and are not swept."""
        return len(self._entries)

    def get(self, key: str) -> T | None:
        entry = self._entries.get(key)
        return entry[1] if entry is not None and entry[0] > self._clock() else None

    def put(self, key: str, value: T, ttl_s: float) -> None:
        now = self._clock()
        while self._due and self._due[0][0] <= now:
            _, stale = heapq.heappop(self._due)
            if stale in self._entries and self._entries[stale][0] <= now:
                del self._entries[stale]
        self._entries[key] = (now + ttl_s, value)
        heapq.heappush(self._due, (now + ttl_s, key))

    def discard(self, key: str) -> None:
        self._entries.pop(key, None)

    def clear(self) -> None:
        self._entries.clear()
        self._due.clear()

    def values(self) -> list[T]:
        now = self._clock()
        return [value for due, value in self._entries.values() if due > now]
