"""A call in a thread, which may outlive our interest in it: Python can end no thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal

__all__ = ["Thread"]


class Thread:
    """One call of `fn`. Made in the loop; `run` is for the thread, all else for the loop."""

    def __init__(
        self, fn: Callable[..., Any], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> None:
        self._call = (fn, args, kwargs or {})
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._state: Literal["new", "running", "ended", "dropped"] = "new"
        self._on_end: Callable[[], None] | None = None
        self._value: Any = None
        self._error: BaseException | None = None

    def run(self) -> None:
        with self._lock:
            if self._state == "dropped":
                return
            self._state = "running"
        fn, args, kwargs = self._call
        try:
            self._value = fn(*args, **kwargs)
        except BaseException as error:  # a future refuses StopIteration and treats SystemExit as its own
            self._error = error
        with self._lock:
            self._state = "ended"
            on_end = self._on_end
        if on_end is not None:
            with suppress(RuntimeError):  # the loop is gone, and with it whoever counted
                self._loop.call_soon_threadsafe(on_end)

    def abandon(self, on_abandoned: Callable[[], Callable[[], None]]) -> bool:
        """Nobody waits any more. Whether it runs on: then what `on_abandoned()` returns is called in the loop at its
        end. One that has not begun never will."""
        with self._lock:
            if self._state == "running":
                self._on_end = on_abandoned()
                return True
            self._state = "dropped"
            return False

    def result(self) -> Any:
        """What the function returned. Raises what it raised, which need be no `Exception`."""
        if self._error is not None:
            raise self._error
        return self._value
