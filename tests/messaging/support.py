"""What the tests of messaging share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

import anyio
import anyio.from_thread

DEADLINE_S = 15.0
"""How long a test waits for what must come. Never reached when the code is right."""


async def eventually(condition: Callable[[], bool | Awaitable[bool]], what: str) -> None:
    """Wait until it is true, asked again and again; fails naming `what` when it stays false."""
    with anyio.move_on_after(DEADLINE_S):
        while True:
            found = condition()
            if found if isinstance(found, bool) else await found:
                return
            await anyio.sleep(0.01)
    raise AssertionError(f"not within {DEADLINE_S:g} s: {what}")


class Got:
    """Collects, and can be waited for."""

    def __init__(self) -> None:
        self.all: list[Any] = []
        self._came = anyio.Event()

    def add(self, item: Any) -> None:
        self.all.append(item)
        self._came.set()

    async def hear(self, item: Any) -> None:
        """The same, as a handler that runs in the loop."""
        self.add(item)

    def add_from_thread(self, item: Any) -> None:
        anyio.from_thread.run_sync(self.add, item)

    async def wait(self, count: int) -> list[Any]:
        """All of them, once there are `count` at least."""
        with anyio.move_on_after(DEADLINE_S):
            while len(self.all) < count:
                self._came = anyio.Event()
                await self._came.wait()
            return self.all
        raise AssertionError(f"{len(self.all)} instead of {count} within {DEADLINE_S:g} s: {self.all}")


def word() -> str:
    """The first word of this test's own event types, so that tests share a broker without meeting."""
    return f"t{uuid4().hex[:8]}"
