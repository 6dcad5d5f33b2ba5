"""A bounded queue with one reader, the actor.

asyncio.Queue was not taken: it has no overflow policy, cannot be closed with what is left in it, and knows nothing of
supervision messages, which must pass the bound (a full mailbox must not keep a supervisor from hearing of an exit).
An item is never handed over through a waiter, only a wake-up is: a cancelled reader loses nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Literal

from anyio.lowlevel import checkpoint

from fogactors.core.waiter import Waiter
from fogactors.errors import ActorDead, MailboxFull

__all__ = ["Mailbox", "Overflow"]

Overflow = Literal["block", "reject", "drop_oldest"]
"""What a full mailbox does. `block`: `tell` waits and `tell_nowait` raises. `reject`: both raise `MailboxFull`.
`drop_oldest`: the message that has waited longest is lost, and counted."""

_TURN = 64
"""Messages that a reader takes without letting others run; a sender that never waits must not own the loop."""


class Mailbox:
    """`capacity` messages at most, supervision messages apart. `overflowed` counts what was refused or lost."""

    __slots__ = (
        "_new_waiter",
        "_on_overflow",
        "_path",
        "_system",
        "_taken",
        "capacity",
        "closed",
        "items",
        "overflow",
        "overflowed",
        "reader",
        "senders",
    )

    def __init__(
        self,
        path: str,
        capacity: int,
        overflow: Overflow,
        new_waiter: Callable[[], Waiter],
        on_overflow: Callable[[Any, int], None],
    ) -> None:
        self.capacity = capacity
        self.overflow: Overflow = overflow
        self.closed = False
        self.overflowed = 0
        self.items: deque[Any] = deque()
        self.reader: Waiter | None = None
        self.senders: deque[Waiter] = deque()
        self._path = path
        self._new_waiter = new_waiter
        self._on_overflow = on_overflow
        self._system: deque[Any] = deque()
        self._taken = 0

    def __len__(self) -> int:
        return len(self.items)

    def put_nowait(self, item: Any) -> None:
        """Raises `MailboxFull` unless the policy is to drop, and `ActorDead` when closed."""
        if self.closed:
            raise ActorDead(f"{self._path}: its mailbox is closed")
        if len(self.items) >= self.capacity:
            if self.overflow != "drop_oldest":
                self.overflowed += 1
                self._on_overflow(None, self.overflowed)
                raise MailboxFull(f"{self._path}: its mailbox is full ({self.capacity} messages)")
            self.overflowed += 1
            self._on_overflow(self.items.popleft(), self.overflowed)
        self.items.append(item)
        reader = self.reader
        if reader is not None and not reader.done():
            reader.set_result(None)

    async def put(self, item: Any) -> None:
        """Waits for room under `block`; first come, first served. The caller bounds the wait."""
        full = len(self.items) >= self.capacity
        if self.overflow == "block":
            # Those who wait already go first, also before a sender that finds room by chance.
            if (full or self.senders) and not self.closed:
                await self._wait_for_room()
        elif full:
            # Or a sender in a loop would own the event loop, and lose what the reader had no turn to read.
            await checkpoint()
        self.put_nowait(item)
        if self.senders:
            self._wake_sender()

    async def _wait_for_room(self) -> None:
        waiter = self._new_waiter()
        self.senders.append(waiter)
        try:
            await waiter
            while len(self.items) >= self.capacity and not self.closed:
                # A put_nowait was quicker. Only the first in line is ever woken, so that is us, and we stay it.
                waiter = self.senders[0] = self._new_waiter()
                await waiter
        except BaseException:
            self.senders.remove(waiter)
            self._wake_sender()
            raise
        self.senders.remove(waiter)

    def put_system(self, item: Any) -> None:
        """A supervision message: never refused, read before all others; dropped when the mailbox is closed."""
        if self.closed:
            return
        self._system.append(item)
        reader = self.reader
        if reader is not None and not reader.done():
            reader.set_result(None)

    async def get(self) -> Any:
        """The next message, supervision first."""
        while True:
            if self._system:
                return self._system.popleft()
            if self.items:
                self._taken += 1
                if self._taken >= _TURN:
                    self._taken = 0
                    await checkpoint()
                    continue  # something more urgent may have come meanwhile
                item = self.items.popleft()
                if self.senders:
                    self._wake_sender()
                return item
            self._taken = 0
            self.reader = waiter = self._new_waiter()
            try:
                await waiter
            finally:
                self.reader = None

    def close(self) -> list[Any]:
        """Refuse what comes from here on, wake who waits, and return what was not read."""
        self.closed = True
        left = list(self.items)
        self.items.clear()
        self._system.clear()
        for waiter in self.senders:
            if not waiter.done():
                waiter.set_result(None)
        return left

    def _wake_sender(self) -> None:
        if self.senders and len(self.items) < self.capacity and not self.senders[0].done():
            self.senders[0].set_result(None)
