"""A stream of the embedded broker: an append-only log that reading does not change."""

from __future__ import annotations

from typing import Literal

from fogactors.bus.base import Message, QueueInfo
from fogactors.bus.embedded.channel import Outcome, Stored, Subscription
from fogactors.bus.embedded.queue import Pump
from fogactors.bus.embedded.timers import Timers
from fogactors.errors import BusError
from fogactors.wire.topology import Policy

__all__ = ["MemoryStream"]


class MemoryStream:
    """Messages by offset, from 0. Settling only gives the consumer room again, however it is done.

    `max_age_s` is applied when something is appended or a consumer comes, not by a timer: RabbitMQ too
    removes old messages only when a segment is full.
    """

    is_stream = True
    counts_returns = True
    exclusive_to: str | None = None
    has_work = False
    """Never: a log is read, not worked off."""
    next_expiry: float | None = None
    type: Literal["quorum", "stream"] = "stream"
    stalled = 0

    def __init__(self, name: str, policy: Policy, *, pump: Pump, timers: Timers) -> None:
        self.name = name
        self.in_pump = False
        self._policy = policy
        self._pump = pump
        self._timers = timers
        self._log: list[Stored] = []
        self._first = 0
        self._consumers: dict[Subscription, None] = {}
        self._unsettled = 0

    def offer(self, stored: Stored, *, forced: bool = False) -> bool:
        """Append. A stream never refuses."""
        stored.seq = self._end
        if self._policy.max_age_s is not None:
            now = self._timers.now()
            stored.expires = now + self._policy.max_age_s
            self._forget(now)
        self._log.append(stored)
        self._pump.wake(self)
        return True

    def attach(self, subscription: Subscription, offset: int | Literal["first", "next"] | None = None) -> None:
        """`None` is `next`, the broker's default. An offset that is gone by age means the first that is
        left."""
        if self._policy.max_age_s is not None:
            self._forget(self._timers.now())
        if offset == "first":
            subscription.next_offset = self._first
        elif offset is None or offset == "next":
            subscription.next_offset = self._end
        else:
            subscription.next_offset = offset
        self._consumers[subscription] = None
        self._pump.wake(self)

    def detach(self, subscription: Subscription) -> None:
        self._consumers.pop(subscription, None)

    def settled(self, subscription: Subscription, stored: Stored, outcome: Outcome) -> None:
        self._unsettled -= 1
        self._pump.wake(self)

    def returned(self, stored: list[Stored]) -> None:
        self._unsettled -= len(stored)

    def serve(self) -> None:
        for subscription in list(self._consumers):
            subscription.next_offset = max(subscription.next_offset, self._first)
            while subscription.has_room and subscription.next_offset < self._end:
                stored = self._log[subscription.next_offset - self._first]
                subscription.next_offset += 1
                self._unsettled += 1
                subscription.hand_over(subscription.assign(stored))

    @property
    def unsettled(self) -> int:
        return self._unsettled

    def messages(self) -> list[Message]:
        """All that it holds, the oldest first."""
        return [stored.message for stored in self._log]

    def info(self) -> QueueInfo:
        return QueueInfo(self.name, len(self._log), len(self._consumers))

    def purge(self) -> int:
        raise BusError(f"{self.name!r} is a stream, and a stream cannot be purged; it forgets by age")

    def delete(self, reason: str) -> None:
        consumers, self._consumers = list(self._consumers), {}
        self._log = []
        for each in consumers:
            each.source_deleted(reason)

    @property
    def _end(self) -> int:
        return self._first + len(self._log)

    def _forget(self, now: float) -> None:
        old = 0
        while old < len(self._log) and self._log[old].expires <= now:
            old += 1
        if old:
            del self._log[:old]
            self._first += old
