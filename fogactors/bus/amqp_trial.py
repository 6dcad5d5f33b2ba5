"""Whether a connection that was made in place of a lost one is of any use."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from fogactors.bus.amqp_errors import BLOCKED_S

__all__ = ["FIRST_CONFIRM_S", "Trial"]

FIRST_CONFIRM_S: Final = 5.0
"""Longer than queues take to elect their leaders, so that a broker that is well is not left for that."""


class Trial:
    """On the connections of one client, one after the other.

    A broker that takes a connection while its queues elect leaders may read nothing from it until it gives up the node
    that was lost, which was seen to take 14 s; a new connection is served at once. So one on which nothing is confirmed
    is given up, but once: where the next is silent too, it is not the connection.
    """

    __slots__ = ("_give_up", "_is_last", "_timer", "pending")

    def __init__(self) -> None:
        self.pending = False
        """Whether it is still to be seen."""
        self._is_last = False
        self._give_up: Callable[[str], None] = lambda _: None
        self._timer: asyncio.TimerHandle | None = None

    def opened(self, give_up: Callable[[str], None], *, again: bool) -> None:
        """A connection, `again`: in place of a lost one. `give_up` is called with the reason."""
        self._stop()
        self._give_up = give_up
        self.pending = again

    def sent(self) -> None:
        """Something that the broker has to confirm."""
        if self._timer is None and not self._is_last:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(FIRST_CONFIRM_S, self._ring, loop, loop.time() + FIRST_CONFIRM_S)

    def confirmed(self) -> None:
        self._stop()
        self.pending = self._is_last = False

    def lost(self) -> None:
        self._stop()
        self.pending = False

    def _ring(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        if loop.time() - due < BLOCKED_S:
            self._silent()
        else:  # what came while the loop was blocked is read behind its timers
            self._timer = loop.call_later(BLOCKED_S, self._silent)

    def _silent(self) -> None:
        self.lost()
        self._is_last = True
        self._give_up(f"it confirmed nothing within {FIRST_CONFIRM_S:g} s")

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
