"""Dead-lettering as quorum queues do it: history, cycle detection, and the two strategies."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from fogactors.bus.base import Death
from fogactors.bus.embedded.channel import Stored
from fogactors.bus.embedded.timers import Timers
from fogactors.wire.topology import Policy

__all__ = ["DeadLetter", "DeadLetters", "Reason", "is_cycle", "with_death"]

Reason = Literal["rejected", "expired", "maxlen", "delivery_limit"]

_IN_FLIGHT = 1_000
"""Dead letters of one queue that may wait for their targets at once; behind them all others wait as well.
What we set `dead_letter_worker_consumer_prefetch` to (RabbitMQ's default is 32)."""


@dataclass(slots=True)
class DeadLetter:
    """A message on its way out of a queue. `taken`: the targets that have it already, so that a second try
    after a refusal gives nobody two."""

    stored: Stored
    exchange: str
    key: str
    forced: bool
    """At-most-once: the target takes it even when it is full, or it is gone."""
    taken: set[str] = field(default_factory=set[str])


def with_death(deaths: tuple[Death, ...], queue: str, reason: Reason) -> tuple[Death, ...]:
    """The history with one more death in front; the same queue and reason are counted, not repeated."""
    count = sum(each.count for each in deaths if (each.queue, each.reason) == (queue, reason))
    rest = tuple(each for each in deaths if (each.queue, each.reason) != (queue, reason))
    return (Death(queue, reason, count + 1), *rest)


def is_cycle(deaths: tuple[Death, ...], target: str) -> bool:
    """Whether the broker alone would send the message round in circles: it died in `target` before, and no
    consumer's rejection since. RabbitMQ drops such a message without a word."""
    for each in deaths:
        if each.reason == "rejected":
            return False
        if each.queue == target:
            return True
    return False


class DeadLetters:
    """Where a queue sends what it gives up on.

    `send` is the broker's routing; it says whether every target took the letter. With at-least-once what is
    refused stays here, counts against the queue's length, and is tried again every `retry_s` seconds.
    """

    __slots__ = ("_changed", "_in_flight", "_policy", "_retry_s", "_send", "_timers", "_waiting")

    def __init__(
        self,
        policy: Policy,
        send: Callable[[DeadLetter], bool],
        timers: Timers,
        *,
        retry_s: float,
        changed: Callable[[], None],
    ) -> None:
        self._policy = policy
        self._send = send
        self._timers = timers
        self._retry_s = retry_s
        self._changed = changed
        self._in_flight: list[DeadLetter] = []
        self._waiting: deque[DeadLetter] = deque()

    def __len__(self) -> int:
        return len(self._in_flight) + len(self._waiting)

    def take(self, stored: Stored, queue: str, reason: Reason) -> None:
        """Give a message up. Without a dead-letter exchange it is gone, silently, as in RabbitMQ."""
        policy = self._policy
        if policy.dead_letter_exchange is None:
            return
        # RabbitMQ falls back to at-most-once unless the queue itself refuses publishes when it is full.
        reliable = policy.dead_letter_strategy == "at-least-once" and policy.overflow == "reject-publish"
        stored.deaths = with_death(stored.deaths, queue, reason)
        key = stored.key if policy.dead_letter_routing_key is None else policy.dead_letter_routing_key
        letter = DeadLetter(stored, policy.dead_letter_exchange, key, forced=not reliable)
        if reliable and len(self._in_flight) >= _IN_FLIGHT:
            self._waiting.append(letter)
        elif not self._send(letter) and reliable:
            self._keep(letter)

    def _keep(self, letter: DeadLetter) -> None:
        if not self._in_flight:
            self._timers.call_at(self._timers.now() + self._retry_s, self._retry)
        self._in_flight.append(letter)

    def _retry(self) -> None:
        tried, self._in_flight = self._in_flight, []
        for letter in tried:
            if not self._send(letter):
                self._keep(letter)
        while self._waiting and len(self._in_flight) < _IN_FLIGHT:
            letter = self._waiting.popleft()
            if not self._send(letter):
                self._keep(letter)
        self._changed()
