"""The coordination store, for one who must not wait for it: each question is bounded, and while the store is away none
is asked but one a second."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime
from typing import Final, TypeVar
from uuid import uuid4

import anyio

from fogactors.coord.base import Coord, Copy, Recorded
from fogactors.errors import CoordError, WireError
from fogactors.messages import Task, TaskResult
from fogactors.tasks.events import ResultUnrecorded

__all__ = ["COORD_TIMEOUT_S", "Store"]

COORD_TIMEOUT_S: Final = 1.0
"""How long the store may be silent before a result takes the other road."""
ASK_AGAIN_S: Final = 1.0
"""How often a store that was away is asked whether it is back. Everything in between takes the other road at once:
one that hangs instead of refusing would cost each task `COORD_TIMEOUT_S` of its slot."""

_NOBODY: Final = Copy("", 0, 0, "", 0)
# To write something is to know that results can be written.

T = TypeVar("T")


class Store:
    """For one executor, `worker`. That the store is away, and that it is back, is told once each (`emit`)."""

    def __init__(
        self,
        coord: Coord,
        *,
        worker: str,
        emit: Callable[[object], None],
        now: Callable[[], datetime],
        result_ttl_s: float,
    ) -> None:
        self._coord = coord
        self._worker = worker
        self._emit = emit
        self._now = now
        self._result_ttl_s = result_ttl_s
        self._away = False
        self._ask_again_at = 0.0
        self.unrecorded = 0
        """Results that took the other road, counted by who sends them there."""

    async def record(self, result: TaskResult) -> Recorded | None:
        """`None`: the store is away."""
        return await self._ask(lambda: self._coord.record(result, ttl_s=self._result_ttl_s))

    async def result(self, task: Task) -> TaskResult | None:
        """The record of this generation of a task, or of a newer one. When the store does not say, `None`: to run it
        twice is allowed, and the record stays one."""
        result = await self._ask(lambda: self._coord.result(task.id), reads=True)
        return result if result is not None and result.generation >= task.generation else None

    def start_of(self, task: Task) -> Copy:
        """Of a task that has just been delivered. `not_before` tells copies apart: each publish of a retry has its own,
        and no later republish changes it."""
        mark = task.not_before.isoformat() if task.not_before is not None else ""
        return Copy(task.id, task.generation, task.attempt, mark, task.hops, f"{self._worker}:{uuid4().hex[:12]}")

    async def begin(self, copy: Copy, limit_s: float) -> int | None:
        """As `Coord.begin`, for an attempt that takes at most `limit_s`. `None`: the store does not say, and then it
        may run."""
        return await self._ask(lambda: self._coord.begin(copy, ttl_s=self._result_ttl_s + limit_s))

    async def take_back(self, copy: Copy) -> None:
        """As `Coord.take_back`. Where the store does not answer the start stays, as if the process had died; so it is
        asked also when it was away a moment ago."""
        with anyio.move_on_after(COORD_TIMEOUT_S), suppress(CoordError):
            await self._coord.take_back(copy)

    async def look(self) -> None:
        """See whether it is back, if it was away and it is time; so that its end is told also when nobody asks."""
        if self._away:
            await self._ask(lambda: self._coord.begin(_NOBODY, ttl_s=1.0))

    async def _ask(self, question: Callable[[], Awaitable[T]], *, reads: bool = False) -> T | None:
        if self._away:
            now = anyio.current_time()
            if reads or now < self._ask_again_at:  # what only reads could not tell that it is back
                return None
            self._ask_again_at = (
                now + COORD_TIMEOUT_S + ASK_AGAIN_S
            )  # the others do not wait for the answer to this one
        answer: T | None = None
        error = f"silent for {COORD_TIMEOUT_S:g} s"
        # Not fail_after: its two context managers cost as much as the scope that they put around this.
        with anyio.move_on_after(COORD_TIMEOUT_S):
            try:
                answer, error = await question(), ""
            except WireError:  # what cannot be read says nothing, but it was said
                error = ""
            except CoordError as away:  # also one that refuses: a permission that is missing is no task's fault
                error = str(away) or type(away).__name__
        if error or not reads:  # one that is full can be read and takes no results
            self._tell(error)
        return answer

    def _tell(self, error: str) -> None:
        if error:
            self._ask_again_at = anyio.current_time() + ASK_AGAIN_S
        if bool(error) != self._away:
            self._away = bool(error)
            at, count = self._now(), self.unrecorded
            self._emit(ResultUnrecorded(at=at, worker=self._worker, away=self._away, unrecorded=count, error=error))
