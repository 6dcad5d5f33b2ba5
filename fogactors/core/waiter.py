"""One-shot waits, as cheap as the event loop allows.

On asyncio a waiter is the loop's own future (with uvloop and CPython both written in C), about five times cheaper than
`anyio.Event`, and there is one per ask. Elsewhere (trio, in tests) it is the portable class below. Waiters only carry
results, never exceptions: a future whose exception nobody fetches complains when it is collected.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from typing import Any, Protocol

import anyio

__all__ = ["Waiter", "waiter_factory"]


class Waiter(Protocol):
    """Awaited by one task, set at most once by another; `done()` also when its awaiter was cancelled."""

    def done(self) -> bool: ...
    def set_result(self, result: Any, /) -> None: ...
    def __await__(self) -> Generator[Any, None, Any]: ...


class PortableWaiter:
    """A waiter on whatever event loop anyio runs on."""

    __slots__ = ("_event", "_result")

    def __init__(self) -> None:
        self._event = anyio.Event()
        self._result: Any = None

    def done(self) -> bool:
        return self._event.is_set()

    def set_result(self, result: Any, /) -> None:
        self._result = result
        self._event.set()

    def __await__(self) -> Generator[Any, None, Any]:
        try:
            yield from self._event.wait().__await__()
        except BaseException:
            self._event.set()  # as a cancelled future is done
            raise
        return self._result


def waiter_factory() -> Callable[[], Waiter]:
    """The cheapest waiter of the running event loop."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return PortableWaiter
    return loop.create_future
