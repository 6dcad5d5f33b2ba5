"""Which tasks are not to be run any more, as far as one executor knows.

A cancellation is recorded in the store and then told to all executors. One that hears of it keeps it in mind, because
the task may still lie in a queue or in a delay; one that connects later asks the store for all of them. So no delivery
needs to ask the store, and one that comes in between is cancelled while it runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import anyio

from fogactors.coord.base import Coord
from fogactors.errors import CoordError, WireError
from fogactors.messages import Task

__all__ = ["Cancellations"]

LOAD_TIMEOUT_S: Final = 1.0
"""How long an executor that starts waits for the store before it takes work without knowing."""
LATER_S: Final = 1.0
MOST: Final = 100_000
"""Told and kept. The store has them all; they are loaded again with each connection."""


class Cancellations:
    """For one executor. `loaded` is called when the store's answer came after work had been taken, and what waits is to
    be looked through."""

    def __init__(self, coord: Coord, loaded: Callable[[], None]) -> None:
        self._coord = coord
        self._loaded = loaded
        self._known: dict[str, int] = {}
        self._is_loaded = False

    def __contains__(self, task: Task) -> bool:
        generation = self._known.get(task.id)
        return generation is not None and task.generation <= generation

    async def load(self) -> None:
        """Ask the store, but not for longer than `LOAD_TIMEOUT_S`."""
        with anyio.move_on_after(LOAD_TIMEOUT_S):
            try:
                found = await self._coord.cancelled()
            except CoordError:
                return
            self._known = found | self._known
            self._is_loaded = True

    async def load_late(self) -> None:
        """Until it has been loaded."""
        while not self._is_loaded:
            await anyio.sleep(LATER_S)
            await self.refresh()

    async def refresh(self) -> None:
        """Ask the store again."""
        await self.load()
        self._loaded()

    async def told(self, task_id: str) -> None:
        """The order does not say which generation it means. A replay has a newer one and is no cancelled task, so the
        store is asked; until it answers, and when it does not, the order means the task as it was first submitted."""
        self._known.setdefault(task_id, 0)
        while len(self._known) > MOST:
            del self._known[next(iter(self._known))]
        try:
            with anyio.fail_after(LOAD_TIMEOUT_S):
                result = await self._coord.result(task_id)
        except (CoordError, WireError, TimeoutError):
            return
        if result is not None and result.state == "cancelled" and task_id in self._known:
            self._known[task_id] = result.generation
