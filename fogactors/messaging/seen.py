"""Which events a subscription has handled, so that the same one is not handled twice.

In this process' memory, always; that is enough for a group of one process, and costs nothing. A group of several has
no memory in common but the coordination store: with one, what another process has handled is known as well, for two
questions to the store for each event. The store is only asked, never waited for: one that is away for a while lets
duplicates through, and stops nothing.

An event counts as handled when its handler has returned, and not before: what is marked first and crashes then would
be lost. So two copies of an event in two processes at the same moment are both handled.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import anyio

from fogactors.coord.base import Coord
from fogactors.errors import CoordError

__all__ = ["Seen"]

MOST: Final = 100_000
"""Ids in memory, some ten MiB. Beyond that the oldest are forgotten before their time."""
STORE_TIMEOUT_S: Final = 0.5
LATER_S: Final = 1.0
"""How long a store that does not answer is not asked again: each question would hold up an event."""

T = TypeVar("T")


class Seen:
    """For one subscription, called `name`. `window_s`: how long an event is remembered; 0: not at all."""

    def __init__(
        self,
        name: str,
        window_s: float,
        coord: Coord | None = None,
        *,
        clock: Callable[[], float] = anyio.current_time,
        most: int = MOST,
    ) -> None:
        self._name = name
        self._window_s = window_s
        self._coord = coord if window_s > 0 else None
        self._clock = clock
        self._most = most
        self._me = secrets.token_hex(8)
        self._until: OrderedDict[str, float] = OrderedDict()
        self._holder: dict[str, str] = {}
        self._ask_again_at = 0.0

    async def handled(self, event_id: str) -> bool:
        """Whether it was, in this process, or in any if there is a store that says so."""
        self._forget()
        if event_id in self._until:
            return True
        coord = self._coord
        if coord is None:
            return False
        claim = await self._ask(lambda: coord.claim(self._key(event_id), self._me, ttl_s=self._window_s))
        if claim is None:
            return False
        if claim.confirmed:
            self._remember(event_id)
            return True
        self._holder[event_id] = claim.task_id  # perhaps another's that failed, or died: it is confirmed in its name
        return False

    async def mark(self, event_id: str) -> None:
        """It is handled."""
        self._remember(event_id)
        coord, holder = self._coord, self._holder.pop(event_id, None)
        if coord is not None and holder is not None:
            await self._ask(lambda: coord.confirm(self._key(event_id), holder, ttl_s=self._window_s))

    def leave(self, event_id: str) -> None:
        """It was not handled after all."""
        self._holder.pop(event_id, None)

    def _key(self, event_id: str) -> str:
        return f"{self._name} {event_id}"

    def _remember(self, event_id: str) -> None:
        if self._window_s > 0:
            self._until[event_id] = self._clock() + self._window_s
            self._until.move_to_end(event_id)
            self._forget()

    def _forget(self) -> None:
        now = self._clock()
        while self._until and (next(iter(self._until.values())) <= now or len(self._until) > self._most):
            self._until.popitem(last=False)

    async def _ask(self, question: Callable[[], Awaitable[T]]) -> T | None:
        """`None` when the store does not say."""
        now = anyio.current_time()
        if now < self._ask_again_at:
            return None
        try:
            with anyio.fail_after(STORE_TIMEOUT_S):
                return await question()
        except (CoordError, TimeoutError):
            self._ask_again_at = now + LATER_S
            return None
