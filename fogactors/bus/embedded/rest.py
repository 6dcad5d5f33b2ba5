"""Whether the broker is at rest, so that a test's clock may skip the wait that is next.

The idea is trio's `MockClock(autojump_threshold)`: when nothing will happen before a deadline, be there at once.
trio asks its scheduler whether every task waits. An event loop of asyncio cannot be asked, so the question is put to
the broker, which sees all work: what is delivered and not settled, and what is ready for a consumer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Protocol

import anyio
import anyio.lowlevel

from fogactors.bus.embedded.queue import Pump
from fogactors.bus.embedded.timers import Timers

__all__ = ["Rest"]

REST_S: Final = 0.001
"""Real seconds in which nothing moves. What a program does between an ack and its next publish takes less."""

REST_TURNS: Final = 5
"""Turns of the event loop in which nothing moves, after `REST_S`: on a busy machine a millisecond may be no turn."""


class Worked(Protocol):
    """A queue or a stream, as far as its work is concerned."""

    @property
    def has_work(self) -> bool: ...
    @property
    def next_expiry(self) -> float | None: ...


class Rest:
    """Calls `skip(seconds)` when the broker is at rest and the next message leaves its delay in so many seconds.

    At rest: nothing is unsettled, nothing is ready in a queue that has a consumer or has lost it with its connection
    (it will be back), no publish waits for its connection or its confirm, and all that has been so for a moment.
    """

    def __init__(
        self, queues: Mapping[str, Worked], pump: Pump, timers: Timers, skip: Callable[[float], None] | None
    ) -> None:
        self._queues = queues
        self._pump = pump
        self._timers = timers
        self._skip = skip
        self._publishing = 0

    def __enter__(self) -> None:
        """Not at rest while this is entered: a publish waits."""
        self._publishing += 1

    def __exit__(self, *_: object) -> None:
        self._publishing -= 1
        self._pump.stir()

    async def run(self) -> None:
        """Runs until it is cancelled."""
        if self._skip is None:
            return
        while True:
            stirred = self._pump.stirred()
            if self._wait_s() > 0 and await _holds(stirred) and (wait_s := self._wait_s()) > 0:
                self._skip(wait_s)
                self._timers.moved()
            await stirred.wait()  # after a skip too: the message that leaves its delay moves something

    def _wait_s(self) -> float:
        """Seconds to skip; 0 when it is not at rest, or nothing is delayed."""
        # The delays first: there are few, and mostly none of them holds anything.
        due = [expires for each in self._queues.values() if (expires := each.next_expiry) is not None]
        if not due or self._publishing or any(each.has_work for each in self._queues.values()):
            return 0.0
        return max(0.0, min(due) - self._timers.now())


async def _holds(stirred: anyio.Event) -> bool:
    with anyio.move_on_after(REST_S):
        await stirred.wait()
    for _ in range(REST_TURNS):
        await anyio.lowlevel.checkpoint()
    return not stirred.is_set()
