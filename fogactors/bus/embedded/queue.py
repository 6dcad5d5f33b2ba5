"""A queue of the embedded broker, with the behaviour of a RabbitMQ quorum queue."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import count
from typing import Literal, Protocol

import anyio

from fogactors.bus.base import QueueInfo
from fogactors.bus.embedded.channel import Outcome, Stored, Subscription
from fogactors.bus.embedded.deadletter import DeadLetter, DeadLetters
from fogactors.bus.embedded.faults import Faults
from fogactors.bus.embedded.ready import LEVELS, ConsumerRing, ReadyList
from fogactors.bus.embedded.timers import Timers
from fogactors.wire.topology import Policy

__all__ = ["MemoryQueue", "Pump", "Servable"]

_DEFAULT_PRIORITY = 4
_LOW_WATER = 0.8
"""A full queue takes publishes again when it is down to this share of its length (rabbit_fifo's
LOW_LIMIT)."""


class Servable(Protocol):
    """What the pump turns to: a queue or a stream."""

    in_pump: bool

    def serve(self) -> None: ...


class Pump:
    """Serves queues one after the other. A handler that publishes, or a dead letter, only adds its queue to
    the list: no recursion, so the depth of the stack does not depend on the topology."""

    __slots__ = ("_running", "_stirred", "_waiting")

    def __init__(self) -> None:
        self._waiting: deque[Servable] = deque()
        self._running = False
        self._stirred: anyio.Event | None = None

    def wake(self, queue: Servable) -> None:
        if not queue.in_pump:
            queue.in_pump = True
            self._waiting.append(queue)
        if self._running:
            return
        self._running = True
        try:
            while self._waiting:
                served = self._waiting.popleft()
                served.in_pump = False
                served.serve()
        finally:
            self._running = False
            self.stir()

    def stirred(self) -> anyio.Event:
        """An event that is set when something moves: a publish, a settle, a consumer that comes, an expiry."""
        if self._stirred is None:
            self._stirred = anyio.Event()
        return self._stirred

    def stir(self) -> None:
        if self._stirred is not None:  # nobody waits, mostly
            self._stirred.set()
            self._stirred = None


class MemoryQueue:
    """Ready messages and consumers. `exclusive_to` names the connection that alone may use it: such a queue
    is a classic one, which knows no priorities and does not say how often a message came back."""

    is_stream = False
    type: Literal["quorum", "stream"] = "quorum"

    def __init__(
        self,
        name: str,
        policy: Policy,
        *,
        pump: Pump,
        timers: Timers,
        faults: Faults,
        dead_letter: Callable[[DeadLetter], bool],
        dead_letter_retry_s: float,
        unused: Callable[[MemoryQueue], None] = lambda _: None,
        exclusive_to: str | None = None,
    ) -> None:
        self.name = name
        self.exclusive_to = exclusive_to
        self.counts_returns = exclusive_to is None
        self.in_pump = False
        self._policy = policy
        self._pump = pump
        self._timers = timers
        self._faults = faults
        self._ready = ReadyList()
        self._ring = ConsumerRing()
        self._consumers: dict[Subscription, None] = {}
        self._leaving: list[Subscription] = []
        self._outgoing = DeadLetters(
            policy, dead_letter, timers, retry_s=dead_letter_retry_s, changed=lambda: pump.wake(self)
        )
        self._seq = count()
        self._unsettled = 0
        self._full = False
        self._expiring = False
        self._orphaned = False
        self._alarm: float | None = None
        self._unused = unused
        self._unused_at = float("inf")
        self.used()

    # -- publishers

    def offer(self, stored: Stored, *, forced: bool = False) -> bool:
        """Take a message, or refuse because the queue is full. `forced`: an at-most-once dead letter is not
        refused."""
        if self._full and not forced:
            return False
        message = stored.message
        stored.seq = next(self._seq)
        # A dead letter loses its own expiration, or it would expire again wherever it goes.
        lives = None if stored.deaths else message.expiration
        ttl = self._policy.message_ttl_ms
        if ttl is not None and (lives is None or ttl < lives * 1000):
            lives = ttl / 1000
        if lives is not None:
            stored.expires = self._timers.now() + lives
            self._expiring = True
        priority = _DEFAULT_PRIORITY
        if message.priority is not None and self.exclusive_to is None:
            priority = min(max(message.priority, 0), LEVELS - 1)
        self._ready.push(stored, priority)
        self._pump.wake(self)
        return True

    # -- consumers

    def attach(self, subscription: Subscription) -> None:
        self._orphaned = False
        self._consumers[subscription] = None
        self._ring.add(subscription)
        self._pump.wake(self)

    def detach(self, subscription: Subscription) -> None:
        self._orphaned |= subscription.connection.lost
        self._consumers.pop(subscription, None)
        self._leaving = [each for each in (*self._leaving, subscription) if each.holds]
        self._ring.remove(subscription)
        self.used()

    def used(self) -> None:
        """Its time to expire without consumers begins anew."""
        if self._policy.expires_ms is not None:
            self._unused_at = self._timers.now() + self._policy.expires_ms / 1000
            self._timers.call_at(self._unused_at, self._look_unused)

    def _look_unused(self) -> None:
        if not self._consumers and self._timers.now() >= self._unused_at:
            self._unused(self)

    def settled(self, subscription: Subscription, stored: Stored, outcome: Outcome) -> None:
        self._unsettled -= 1
        if outcome is Outcome.REJECT:
            self._outgoing.take(stored, self.name, "rejected")
        elif outcome is Outcome.REQUEUE or self._faults.take_redelivery(self.name):
            self._take_back(stored)
        if subscription.active:
            self._ring.add(subscription)
        self._pump.wake(self)

    def returned(self, stored: list[Stored]) -> None:
        """A channel or its connection is gone."""
        self._unsettled -= len(stored)
        for each in stored:
            self._take_back(each)
        self._pump.wake(self)

    def _take_back(self, stored: Stored) -> None:
        stored.returns += 1
        if 0 <= self._policy.delivery_limit < stored.returns:
            self._outgoing.take(stored, self.name, "delivery_limit")
        else:
            self._ready.push_returned(stored)

    # -- the pump

    def serve(self) -> None:
        """Drop what has expired, deliver while a consumer has room, then look at the length: in this order,
        so that a message that a consumer takes at once never counts against it."""
        ready, ring = self._ready, self._ring
        now = self._timers.now() if self._expiring else 0.0
        while (stored := ready.peek()) is not None:
            if stored.expires <= now:
                ready.pop()
                self._outgoing.take(stored, self.name, "expired")
                continue
            subscription = ring.take()
            if subscription is None:
                break
            ready.pop()
            self._unsettled += 1
            delivery = subscription.assign(stored)
            if subscription.has_room:
                ring.add(subscription)
            subscription.hand_over(delivery)
        self._keep_to_length()
        if self._expiring:
            self._set_alarm()

    def _keep_to_length(self) -> None:
        limit = self._policy.max_length
        if limit is None:
            return
        length = len(self._ready) + len(self._outgoing)
        if self._policy.overflow == "reject-publish":
            # Full only when it is over the limit, and until it is well below: RabbitMQ takes 11 where the
            # limit is 10.
            self._full = length > limit or (self._full and length > int(limit * _LOW_WATER))
            return
        while self._ready and len(self._ready) + len(self._outgoing) > limit:
            self._outgoing.take(self._ready.pop_oldest(), self.name, "maxlen")

    def _set_alarm(self) -> None:
        # Only the next one in line expires, also behind a longer one's back: the head-of-line blocking is
        # RabbitMQ's.
        head = self._ready.peek()
        if head is None or head.expires == float("inf"):
            return
        if self._alarm is None or head.expires < self._alarm:
            self._alarm = head.expires
            self._timers.call_at(head.expires, self._on_alarm)

    def _on_alarm(self) -> None:
        self._alarm = None
        self._pump.wake(self)

    # -- looking, and ending

    @property
    def unsettled(self) -> int:
        return self._unsettled

    @property
    def stalled(self) -> int:
        """Dead letters that no target has taken yet."""
        return len(self._outgoing)

    @property
    def has_work(self) -> bool:
        """Whether somebody has a message of it in hand, or will have as soon as a consumer has room, or is back after
        its connection was lost."""
        return self._unsettled > 0 or (len(self._ready) > 0 and (self._orphaned or bool(self._consumers)))

    @property
    def next_expiry(self) -> float | None:
        """When its first message is over its delay; `None` for a queue that delays nothing. A message's own expiration
        makes no delay of a queue: it says how long it may wait for a consumer, who may still come."""
        head = None if self._policy.message_ttl_ms is None else self._ready.peek()
        return None if head is None else head.expires

    def info(self) -> QueueInfo:
        # As a quorum queue counts: who takes no more is there until all that it holds is settled.
        leaving = sum(each.holds for each in self._leaving) if self.exclusive_to is None else 0
        return QueueInfo(self.name, len(self._ready), len(self._consumers) + leaving)

    def purge(self) -> int:
        waiting, self._ready = len(self._ready), ReadyList()
        self._pump.wake(self)
        return waiting

    def delete(self, reason: str) -> None:
        consumers, self._consumers = list(self._consumers), {}
        self._ready, self._ring = ReadyList(), ConsumerRing()
        for each in consumers:
            each.source_deleted(reason)
