"""The two orders inside a queue: which message is next, and which consumer."""

from __future__ import annotations

from bisect import insort
from collections import deque

from fogactors.bus.embedded.channel import Stored, Subscription

__all__ = ["LEVELS", "ConsumerRing", "ReadyList"]

LEVELS = 32
"""Message priorities 0 to 31, as quorum queues of RabbitMQ 4.3 have them."""


class ReadyList:
    """Messages that wait, in the order in which they are served: returned ones first, then the highest
    priority, and among equals the oldest. One deque per priority and a bit mask of those that hold something:
    no step scans."""

    __slots__ = ("_filled", "_length", "_levels", "_returned")

    def __init__(self) -> None:
        self._levels: list[deque[Stored]] = [deque() for _ in range(LEVELS)]
        self._filled = 0
        self._returned: deque[Stored] = deque()
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def push(self, stored: Stored, level: int) -> None:
        self._levels[level].append(stored)
        self._filled |= 1 << level
        self._length += 1

    def push_returned(self, stored: Stored) -> None:
        self._returned.append(stored)
        self._length += 1

    def peek(self) -> Stored | None:
        """The one that `pop` takes."""
        if self._returned:
            return self._returned[0]
        return self._levels[self._filled.bit_length() - 1][0] if self._filled else None

    def pop(self) -> Stored:
        """Raises `IndexError` when empty."""
        if self._returned:
            self._length -= 1
            return self._returned.popleft()
        if not self._filled:
            raise IndexError("nothing is ready")
        return self._pop_level(self._filled.bit_length() - 1)

    def pop_oldest(self) -> Stored:
        """The one that arrived first, whatever its priority: what `drop-head` drops. Raises `IndexError` when
        empty."""
        heads = [(level[0].seq, index) for index, level in enumerate(self._levels) if level]
        if self._returned and (not heads or self._returned[0].seq < min(heads)[0]):
            self._length -= 1
            return self._returned.popleft()
        if not heads:
            raise IndexError("nothing is ready")
        return self._pop_level(min(heads)[1])

    def _pop_level(self, index: int) -> Stored:
        level = self._levels[index]
        stored = level.popleft()
        if not level:
            self._filled &= ~(1 << index)
        self._length -= 1
        return stored


class ConsumerRing:
    """Consumers with room for a delivery: the highest priority first, in turn among equals."""

    __slots__ = ("_descending", "_levels")

    def __init__(self) -> None:
        self._levels: dict[int, deque[Subscription]] = {}
        self._descending: list[int] = []

    def add(self, subscription: Subscription) -> None:
        """To the end of its level. Does nothing when it is there already."""
        if subscription.in_ring:
            return
        level = self._levels.get(subscription.priority)
        if level is None:
            level = self._levels[subscription.priority] = deque()
            insort(self._descending, subscription.priority, key=lambda priority: -priority)
        level.append(subscription)
        subscription.in_ring = True

    def take(self) -> Subscription | None:
        """The next one's turn; it is out of the ring until it is added again."""
        for priority in self._descending:
            level = self._levels[priority]
            if level:
                subscription = level.popleft()
                subscription.in_ring = False
                return subscription
        return None

    def remove(self, subscription: Subscription) -> None:
        if subscription.in_ring:
            self._levels[subscription.priority].remove(subscription)
            subscription.in_ring = False
