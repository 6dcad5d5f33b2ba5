"""Waiting until one is told to stop: by a signal, by another thread, or because what was waited on has ended."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Any, Final

__all__ = ["Wait"]

REPEAT_S: Final = 0.2
"""A signal that follows the first so closely is the same one: `timeout` sends it to the process and to its group."""
LOOK_S: Final = 1.0
"""How often a wait in another thread looks whether the program's main thread has ended."""
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)

_log: Final = logging.getLogger("fogactors.blocking")


class Wait:
    """Somebody who blocks until `stop`. `what`: for the log. In the main thread SIGINT and SIGTERM stop every wait of
    this process, and a second one ends the process at once with 130 or 143.

    A signal for which the program has a handler of its own is left to it; so is one that is ignored.
    """

    _all: Final[set[Wait]] = set()

    def __init__(self, what: str) -> None:
        self.what = what
        self._pid = os.getpid()
        self._before: dict[int, Any] = {}
        self._signalled: float | None = None
        # Of all that wakes a thread this alone may be used in a signal handler: its `put` can interrupt itself.
        self._reasons: SimpleQueue[str] = SimpleQueue()

    @classmethod
    def forget_all(cls) -> None:
        """In a forked process: those who wait are the parent's."""
        cls._all.clear()

    def stop(self, reason: str = "asked to") -> None:
        self._reasons.put(reason)

    @contextmanager
    def listening(self) -> Generator[None]:
        """Signals stop it, from here on until the end of the block: what is begun can be drained under them."""
        in_main = threading.current_thread() is threading.main_thread()
        Wait._all.add(self)
        try:
            if in_main:
                for number in SIGNALS:
                    if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                        self._before[number] = signal.signal(number, self._on_signal)
            yield
        finally:
            for number, before in self._before.items():
                signal.signal(number, before)
            Wait._all.discard(self)

    def until_stopped(self) -> None:
        in_main = threading.current_thread() is threading.main_thread()
        while True:
            try:
                reason = self._reasons.get(timeout=None if in_main else LOOK_S)
                break
            except Empty:
                if not threading.main_thread().is_alive():  # Python waits for this thread now
                    reason = "the program has come to its end"
                    break
        _log.info("%s stops: %s", self.what, reason)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:  # a child that a handler has forked: what it waits for is not this
            signal.signal(number, self._before[number])
            signal.raise_signal(number)
            return
        now = time.monotonic()
        if self._signalled is None:
            self._signalled = now
            for each in tuple(Wait._all):
                each.stop(f"{signal.Signals(number).name}; again to stop at once")
        elif now - self._signalled >= REPEAT_S:
            os.write(2, b"fogactors: stopped at once by a second signal; what was not done is delivered again\n")
            os._exit(128 + number)
