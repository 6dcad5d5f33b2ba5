"""The broker's clock: one heap of due times and one loop that sleeps until the earliest."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count

import anyio

__all__ = ["Timers"]


class Timers:
    """Calls functions when they are due. Entries are never cancelled: what is called checks whether it still
    matters.

    One loop for all of them, not a task per message: a retry queue may hold ten thousand messages.
    """

    __slots__ = ("_heap", "_order", "_wake", "now")

    def __init__(self, clock: Callable[[], float]) -> None:
        self.now = clock
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._wake: anyio.Event | None = None

    def call_at(self, when: float, call: Callable[[], None]) -> None:
        """Call back at `when` (the clock's seconds) or soon after; equal times in the order they were asked
        for."""
        heapq.heappush(self._heap, (when, next(self._order), call))
        if self._wake is not None and self._heap[0][0] == when:
            self._wake.set()

    def moved(self) -> None:
        """The clock was moved: look what is due by now."""
        if self._wake is not None:
            self._wake.set()

    async def run(self) -> None:
        """Runs until it is cancelled."""
        while True:
            self._call_due()
            self._wake = anyio.Event()
            rest = self._heap[0][0] - self.now() if self._heap else None
            with anyio.move_on_after(None if rest is None else max(0.0, rest)):
                await self._wake.wait()

    def _call_due(self) -> None:
        now = self.now()
        while self._heap and self._heap[0][0] <= now:
            heapq.heappop(self._heap)[2]()
