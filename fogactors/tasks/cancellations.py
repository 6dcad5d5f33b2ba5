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
LOAD_ALL_S: Final = 30.0
"""How long the store may take for all of them: a hundred thousand take a third of a second, on a small machine more."""
LATER_S: Final = 1.0
MOST_TOLD: Final = 100_000
"""Told and not yet known from the store, which has them all; they are loaded again with each connection."""


class Cancellations:
    """For one executor. `changed` is called when more became known, and what is in hand is to be looked through."""

    def __init__(self, coord: Coord, changed: Callable[[], None]) -> None:
        self._coord = coord
        self._changed = changed
        self._recorded: dict[str, int] = {}
        self._told: dict[str, int] = {}
        self._stale = anyio.Event()
        self._loaded = anyio.Event()

    def __contains__(self, task: Task) -> bool:
        return task.generation <= max(self._recorded.get(task.id, -1), self._told.get(task.id, -1))

    async def run(self) -> None:
        """Keep what the store knows, for as long as the executor lives."""
        while True:
            self._stale = anyio.Event()  # before it is asked, so that nothing is missed that comes meanwhile
            try:
                with anyio.fail_after(LOAD_ALL_S):
                    self._recorded = await self._coord.cancelled()
            except (CoordError, TimeoutError):
                await anyio.sleep(LATER_S)
                continue
            self._loaded.set()
            self._changed()
            await self._stale.wait()

    async def wait_loaded(self) -> None:
        """Until the store has answered, but not for longer than `LOAD_TIMEOUT_S`."""
        with anyio.move_on_after(LOAD_TIMEOUT_S):
            await self._loaded.wait()

    def refresh(self) -> None:
        """Ask the store again."""
        self._stale.set()

    def hear(self, task_id: str) -> None:
        """An order has come. It does not say which generation it means; until `ask` knows better, and when it does
        not, the task as it was first submitted. At once: its delivery may be the very next message."""
        self._told.setdefault(task_id, 0)
        while len(self._told) > MOST_TOLD:
            del self._told[next(iter(self._told))]

    async def ask(self, task_id: str) -> None:
        """Which generation an order meant: a replay has a newer one, and is no cancelled task."""
        try:
            with anyio.fail_after(LOAD_TIMEOUT_S):
                result = await self._coord.result(task_id)
        except (CoordError, WireError, TimeoutError):
            return
        if result is not None and result.state == "cancelled" and result.generation > self._told.get(task_id, -1):
            self._told[task_id] = result.generation
            self._changed()
