"""Work beside an actor's loop: counted, so that one can wait until it is done, and heard of when it fails."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
from anyio.abc import TaskGroup

__all__ = ["Jobs"]


class Jobs:
    """Runs functions in a task group. What one of them raises goes to `failed`, not into the group: there it would
    come out wrapped in an `ExceptionGroup`."""

    def __init__(self, tasks: TaskGroup, failed: Callable[[Exception], None]) -> None:
        self._tasks = tasks
        self._failed = failed
        self._count = 0
        self._idle = anyio.Event()

    def start(self, work: Callable[..., Awaitable[None]], *args: Any, name: str | None = None) -> None:
        self._count += 1
        self._tasks.start_soon(self._run, work, args, name=name)

    async def wait_idle(self, seconds: float) -> None:
        """Until none is left, but not longer than `seconds`."""
        if self._count:
            self._idle = anyio.Event()
            with anyio.move_on_after(seconds):
                await self._idle.wait()

    async def _run(self, work: Callable[..., Awaitable[None]], args: tuple[Any, ...]) -> None:
        try:
            await work(*args)
        except Exception as error:
            self._failed(error)
        finally:
            self._count -= 1
            if not self._count:
                self._idle.set()
