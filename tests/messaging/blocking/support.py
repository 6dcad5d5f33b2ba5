"""What the tests of the blocking face share."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any
from uuid import uuid4

DEADLINE_S = 20.0
"""How long a test waits for what must come. Never reached when the code is right."""


class Heard:
    """Collects from any thread, and can be waited for."""

    def __init__(self) -> None:
        self.all: list[Any] = []
        self._changed = threading.Condition()

    def add(self, item: Any) -> None:
        with self._changed:
            self.all.append(item)
            self._changed.notify_all()

    def wait(self, count: int) -> list[Any]:
        """All of them, once there are `count` at least."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self.all) >= count, DEADLINE_S):
                raise AssertionError(f"{len(self.all)} instead of {count} within {DEADLINE_S:g} s: {self.all}")
            return list(self.all)


class Worker(threading.Thread):
    """Runs one function; `join` raises what it raised, or that it did not end."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        super().__init__(daemon=True)
        self._call = lambda: function(*args)
        self.result: Any = None
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self.result = self._call()
        except BaseException as error:
            self._error = error

    def end(self) -> Any:
        self.join(DEADLINE_S)
        assert not self.is_alive(), f"it did not end within {DEADLINE_S:g} s"
        if self._error is not None:
            raise self._error
        return self.result


def eventually(condition: Callable[[], bool], what: str) -> None:
    """Wait until it is true, asked again and again; fails naming `what` when it stays false."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {DEADLINE_S:g} s: {what}"
        time.sleep(0.01)


def assert_one_line(error: BaseException) -> None:
    assert len(str(error).splitlines()) == 1


def word() -> str:
    """The first word of this test's own names, so that tests share a broker without meeting."""
    return f"t{uuid4().hex[:8]}"
