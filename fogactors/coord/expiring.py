"""A dict whose entries run out, for the store in memory."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any, Generic, TypeVar

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
        self._sweep(now)
        self._put(key, value, now + ttl_s)

    def end_with(self, key: str, other: Expiring[Any], other_key: str) -> None:
        """Let an entry, if it is there, run out when that one of another dict does."""
        mine, its = self._entries.get(key), other._entries.get(other_key)
        if mine is not None and its is not None:
            self._put(key, mine[1], its[0])

    def _put(self, key: str, value: T, due: float) -> None:
        self._entries[key] = (due, value)
        heapq.heappush(self._due, (due, key))

    def _sweep(self, now: float) -> None:
        while self._due and self._due[0][0] <= now:
            _, stale = heapq.heappop(self._due)
            if stale in self._entries and self._entries[stale][0] <= now:
                del self._entries[stale]

    def discard(self, key: str) -> None:
        self._entries.pop(key, None)

    def clear(self) -> None:
        self._entries.clear()
        self._due.clear()

    def values(self) -> list[T]:
        now = self._clock()
        return [value for due, value in self._entries.values() if due > now]
