"""One heap of deadlines for a whole system of actors: timers, and the timeouts of asks.

A cancel scope per ask costs more than the ask. Timeouts are therefore kept in buckets of 10 ms, one heap entry each: an
ask is added to and removed from a set, and is never early, at most one bucket late.

What was cancelled or answered stays in the heap until it is due, or until half of the heap is such: then all of it is
swept out, so that a million timers of an hour that were cancelled at once are not kept for an hour.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable
from typing import Final

import anyio

from fogactors.core.waiter import Waiter

__all__ = ["TIMED_OUT", "Timer", "Timers"]

TIMED_OUT: Final = object()
"""What a waiter that ran out of time is given."""

_BUCKETS_PER_S: Final = 100
_SWEEP_FROM: Final = 1024
"""Entries of the heap that are never worth a sweep."""


class Timer:
    """A call to come. `cancel()` is cheap and may be repeated."""

    __slots__ = ("_armed", "_call")

    def __init__(self, call: Callable[[], None]) -> None:
        self._call: Callable[[], None] | None = call
        self._armed = True

    @property
    def pending(self) -> bool:
        return self._armed and self._call is not None

    @property
    def matters(self) -> bool:
        """Whether anything would be missed without it."""
        return self.pending

    def cancel(self) -> None:
        self._call = None

    def fire(self) -> None:
        if self.pending and self._call is not None:
            self._armed = False
            self._call()

    def rearm(self) -> bool:
        """Make it pending again; false when it was cancelled."""
        self._armed = self._call is not None
        return self._armed


class _Bucket(Timer):
    """Those who wait until the same 10 ms."""

    __slots__ = ("number", "waiters")

    def __init__(self, number: int, call: Callable[[], None], first: Waiter) -> None:
        super().__init__(call)
        self.number = number
        self.waiters = {first}

    @property
    def matters(self) -> bool:
        return bool(self.waiters)


class Timers:
    """Owned by an `ActorSystem`, which runs `run()`. `clock` gives the event loop's time in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self._heap: list[tuple[float, int, Timer]] = []
        self._number = itertools.count()
        self._buckets: dict[int, _Bucket] = {}
        self._sweep_at = _SWEEP_FROM
        self._wake = anyio.Event()
        self._scope = anyio.CancelScope(shield=True)

    def call_at(self, when: float, call: Callable[[], None]) -> Timer:
        """Call a plain function, which must not raise, at `when` on the clock."""
        timer = Timer(call)
        self._push(when, timer)
        return timer

    def call_again(self, when: float, timer: Timer) -> None:
        """The same timer once more, for one that is periodic; not if it was cancelled meanwhile."""
        if timer.rearm():
            self._push(when, timer)

    def expire_at(self, when: float, waiter: Waiter) -> int:
        """Give the waiter `TIMED_OUT` at `when` or up to 10 ms later; returns the bucket, for `forget`."""
        if not math.isfinite(when):
            raise ValueError("a timeout must be a finite number of seconds: every wait is bounded")
        number = int(when * _BUCKETS_PER_S) + 1
        bucket = self._buckets.get(number)
        if bucket is not None:
            bucket.waiters.add(waiter)
        else:
            bucket = self._buckets[number] = _Bucket(number, lambda: self._expire(number), waiter)
            self._push(number / _BUCKETS_PER_S, bucket)
        return number

    def forget(self, bucket: int, waiter: Waiter) -> None:
        """The waiter has its answer."""
        found = self._buckets.get(bucket)
        if found is not None:
            found.waiters.discard(waiter)

    async def run(self) -> None:
        """Fire what is due, until `close()`. Shielded: while a cancelled tree stops, its asks must still time out."""
        with self._scope:
            while True:
                now = self.clock()  # once: a timer that re-arms itself faster than it fires must not keep the loop
                while self._heap and self._heap[0][0] <= now:
                    heapq.heappop(self._heap)[2].fire()
                self._wake = anyio.Event()
                with anyio.CancelScope(deadline=self._heap[0][0] if self._heap else math.inf):
                    await self._wake.wait()

    def close(self) -> None:
        self._scope.cancel()

    def _push(self, when: float, timer: Timer) -> None:
        heapq.heappush(self._heap, (when, next(self._number), timer))
        if len(self._heap) >= self._sweep_at:
            self._sweep()
        if self._heap[0][2] is timer:
            self._wake.set()

    def _sweep(self) -> None:
        """Costs as much as what was added since the last one, at most."""
        self._heap = [entry for entry in self._heap if entry[2].matters]
        heapq.heapify(self._heap)
        self._buckets = {number: bucket for number, bucket in self._buckets.items() if bucket.waiters}
        self._sweep_at = max(_SWEEP_FROM, 2 * len(self._heap))

    def _expire(self, bucket: int) -> None:
        found = self._buckets.pop(bucket, None)
        for waiter in () if found is None else found.waiters:
            if not waiter.done():
                waiter.set_result(TIMED_OUT)
