"""Notices a consumer that the broker has forgotten: it stands, there is work for it, and nothing comes.

No protocol tells of that: a queue that changed its leader at the wrong moment, or a bug of the broker, leaves a worker
that is connected and idle for ever. So a subscription that has room and is quiet for long is asked about, and when
something waits in its queue twice in a row it is replaced.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

import anyio

from fogactors.bus.base import Bus
from fogactors.errors import BusError
from fogactors.tasks.events import ConsumerStalled
from fogactors.tasks.intake import Intake, Subscription

__all__ = ["Quiet", "Watchdog", "answered", "look"]

LOOKS: Final = 5
"""In `watchdog_s`. A stall is noticed after `watchdog_s` and two looks more, at the latest."""


@dataclass(frozen=True, slots=True)
class Quiet:
    """What is remembered of one subscription. `received`: how many deliveries had come; `since`: when that last
    changed, or the queue was empty; `suspect`: something waited when the broker was last asked."""

    received: int
    since: float
    suspect: bool = False


def look(now: float, received: int, has_room: bool, seen: Quiet | None, limit_s: float) -> tuple[Quiet, bool]:
    """What to remember, and whether to ask the broker what waits."""
    if seen is None or received != seen.received or not has_room:
        return Quiet(received, now), False
    return seen, seen.suspect or now - seen.since >= limit_s


def answered(now: float, ready: int, seen: Quiet) -> tuple[Quiet, bool]:
    """What to remember when `ready` messages wait and nothing came meanwhile, and whether that is a stall. Not the
    first time: what has just been published waits as well, for a millisecond."""
    if not ready:
        return Quiet(seen.received, now), False
    return replace(seen, suspect=True), seen.suspect


class Watchdog:
    """For one executor. `replace` is called with a subscription that is stalled; it must not block."""

    def __init__(
        self,
        bus: Bus,
        intake: Intake,
        limit_s: float,
        *,
        clock: Callable[[], float],
        replace: Callable[[Subscription], None],
        emit: Callable[[object], None],
        worker: str,
    ) -> None:
        self._bus = bus
        self._intake = intake
        self._limit_s = limit_s
        self._clock = clock
        self._replace = replace
        self._emit = emit
        self._worker = worker
        self._seen: dict[Subscription, Quiet] = {}

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await anyio.sleep(self._limit_s / LOOKS)
            self._seen = {each: quiet for each, quiet in self._seen.items() if each in self._intake.standing}
            for subscription in self._intake.standing:
                await self._check(subscription)

    async def _check(self, subscription: Subscription) -> None:
        received, now = subscription.received, self._clock()
        has_room = subscription.unsettled < subscription.prefetch
        seen, ask = look(now, received, has_room, self._seen.get(subscription), self._limit_s)
        self._seen[subscription] = seen
        if not ask:
            return
        try:
            ready = (await self._bus.inspect(subscription.queue)).ready
        except BusError:
            return  # the queue is away, or the link ends next: neither says anything about the consumer
        if subscription.received != received or subscription not in self._intake.standing:
            return
        self._seen[subscription], stalled = answered(self._clock(), ready, seen)
        if stalled:
            silent_s, at = self._clock() - seen.since, datetime.now(UTC)
            self._emit(
                ConsumerStalled(at=at, worker=self._worker, queue=subscription.queue, ready=ready, silent_s=silent_s)
            )
            self._replace(subscription)
