"""The event loop behind the blocking face: one for a process, in a thread of its own.

In a thread, so that heartbeats go on and connections heal while the program's own threads block; one, so that all who
name `memory://` find the same broker. It is started by the first `connect()` and ends with the process.

A daemon thread, and ended by `atexit`: a program that forgets `disconnect()` must end all the same. That is why this
is anyio's `BlockingPortal` and not its `start_blocking_portal`, which joins the thread without a bound.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import CancelledError, Future
from typing import Any, Final, TypeVar

import anyio
from anyio.from_thread import BlockingPortal

from fogactors.errors import BusUnavailable, ConfigError

__all__ = ["Loop", "check_thread", "current"]

ENDED: Final = "the thread of the event loop has ended, and what it did may be done or not; connect() anew"
START_S: Final = 10.0
"""For the thread to come up."""

T = TypeVar("T")

_log: Final = logging.getLogger("fogactors.blocking")


class Loop:
    """A thread with an event loop in it. `pid`: the process it runs in; a fork has none of it.

    Raises `BusUnavailable` when it does not come up.
    """

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._is_over = self._is_asked = False
        self._waiting: set[Future[Any]] = set()
        ready: Future[BlockingPortal] = Future()
        self._thread = threading.Thread(target=self._run, args=(ready,), name="fogactors loop", daemon=True)
        self._thread.start()
        try:
            self._portal = ready.result(START_S)
        except TimeoutError:
            raise BusUnavailable(f"the thread of the event loop did not come up within {START_S:g} s") from None

    @property
    def is_alive(self) -> bool:
        return not self._is_over and self.pid == os.getpid() and self._thread.is_alive()

    def start(self, function: Callable[..., Awaitable[T]], *args: Any) -> Future[T]:
        """Begin it in the loop, in the caller's context: what it publishes belongs to the caller's conversation.

        Cancelling the future cancels it. Raises `ConfigError` where blocking would block an event loop,
        `BusUnavailable` when the thread has ended.
        """
        check_thread()
        try:
            future = self._portal.start_task_soon(function, *args)
        except RuntimeError as error:  # closed
            raise BusUnavailable(ENDED) from error
        self._waiting.add(future)
        future.add_done_callback(self._waiting.discard)
        if not self.is_alive:  # it may have ended before it saw this one
            future.cancel()
        return future

    def wait(self, future: Future[T], timeout: float | None = None) -> T:
        """What came of it. Whoever is interrupted (Ctrl-C) takes it back. Raises `TimeoutError`."""
        try:
            return future.result(timeout)
        except CancelledError:
            raise BusUnavailable(ENDED) from None
        except BaseException:
            future.cancel()  # does nothing to one that is done
            raise

    def call(self, function: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Run it in the loop and wait for it; each of ours has a deadline of its own."""
        return self.wait(self.start(function, *args))

    def stop(self, timeout: float) -> None:
        """End the thread; whatever runs in it is cancelled."""
        self._is_asked = True
        try:
            self._portal.start_task_soon(self._portal.stop, True)
        except RuntimeError:
            return
        self._thread.join(timeout)

    def _run(self, ready: Future[BlockingPortal]) -> None:
        try:
            anyio.run(self._main, ready)
        except BaseException as error:
            if not ready.done():
                ready.set_exception(error)
            _log.error("the thread of the event loop has ended: %s: %s", type(error).__name__, error)
        finally:
            self._give_up()

    def _give_up(self) -> None:
        self._is_over = True
        for future in tuple(self._waiting):  # nobody waits for ever
            future.cancel()

    async def _main(self, ready: Future[BlockingPortal]) -> None:
        async with BlockingPortal() as portal:
            ready.set_result(portal)
            try:
                await portal.sleep_until_stopped()
            finally:
                if not self._is_asked:
                    _log.error("the event loop is ending, and with it all that is connected; nobody had asked for it")
                self._give_up()  # now: what runs in it is cancelled, and may take a while to end


_lock = threading.Lock()
_loop: Loop | None = None
_inherited: list[Loop | None] = []


def current() -> Loop:
    """The loop of this process; started where there is none. Raises as `Loop` and `check_thread`."""
    global _loop
    check_thread()
    with _lock:
        if _loop is None or not _loop.is_alive:
            _loop = Loop()
        return _loop


def check_thread() -> None:
    """Raises `ConfigError` in a thread whose event loop would stand still meanwhile."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise ConfigError(
        "this would block the event loop that runs in this thread: use the classes of `fogactors` with `async with` "
        "there, or call it in a thread (anyio.to_thread.run_sync)"
    )


def _forked() -> None:
    global _lock, _loop
    # Kept: collected as garbage it would take the parent's descriptors out of the epoll that both share.
    _inherited.append(_loop)
    _lock, _loop = threading.Lock(), None


os.register_at_fork(after_in_child=_forked)
