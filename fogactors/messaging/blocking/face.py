"""What the blocking classes share: an asynchronous one that is entered and left in the loop's thread."""

from __future__ import annotations

import atexit
import contextvars
import logging
import os
import threading
import time
from collections.abc import Awaitable, Callable, Generator
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from types import TracebackType
from typing import Any, Final, Generic, Self, TypeVar
from weakref import WeakSet

import anyio

from fogactors.errors import ActorError, BusUnavailable, ConfigError, FogError, leaves
from fogactors.messaging.blocking.loop import Loop, check_thread, current
from fogactors.messaging.blocking.stopping import Wait

__all__ = ["Face"]

EXIT_S: Final = 20.0
"""For all that is still connected at the end of the program: handlers that run have 10 s of it."""
LOOP_S: Final = 2.0

A = TypeVar("A")
T = TypeVar("T")

_log: Final = logging.getLogger("fogactors.blocking")
_within: contextvars.ContextVar[object] = contextvars.ContextVar("fogactors blocking face", default=None)


class _Held(Generic[A]):
    """One `async with`, held open by a task of the loop: it must be left by the task that entered it."""

    def __init__(self, loop: Loop, opens: AbstractAsyncContextManager[A], owner: object) -> None:
        self.loop = loop
        self._opens = opens
        self._owner = owner
        self.is_leaving = False
        self._opened: Future[A] = Future()
        self._leave: anyio.Event
        # In a context of its own: what it was connected for, a handler perhaps, is not what it is used for.
        self._task = contextvars.Context().run(loop.start, self._hold)
        self._task.add_done_callback(self._ended)
        try:
            self.inner = self._opened.result()
        except BaseException:
            self._task.cancel()  # Ctrl-C while it connects
            raise

    @property
    def error(self) -> BaseException | None:
        """Why it is open no more, though nobody closed it."""
        if not self._task.done():
            return None
        if self._task.cancelled():
            return BusUnavailable("the thread of the event loop has ended")
        return _plain(self._task.exception() or BusUnavailable("it was closed"))

    def when_ended(self, call: Callable[[], None]) -> None:
        self._task.add_done_callback(lambda _: call())

    def leave(self) -> Future[None]:
        """Begin to close it; returns the future of its end. Until then it can be used, by handlers that still run."""
        self.is_leaving = True
        with suppress(BusUnavailable):  # the thread is gone, and with it the connection
            self.loop.start(self._set)
        return self._task

    async def _set(self) -> None:
        self._leave.set()

    async def _hold(self) -> None:
        _within.set(self._owner)  # and so in every handler: they are called in copies of this context
        self._leave = anyio.Event()
        async with self._opens as inner:
            self._opened.set_result(inner)
            await self._leave.wait()

    def _ended(self, task: Future[None]) -> None:
        if not self._opened.done():
            error = BusUnavailable("the thread of the event loop has ended") if task.cancelled() else task.exception()
            self._opened.set_exception(_plain(error or BusUnavailable("it was closed")))


class Face(Generic[A]):
    """A blocking class over an asynchronous one, `A`. Every method may be called from any thread, handlers included,
    unless it says something else.

    Use before `connect()` and after `disconnect()`, in a process that was forked since, or in a thread whose event loop
    it would block, raises `ConfigError`.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._held: _Held[A] | None = None
        self._waits: set[Wait] = set()
        self._asked: str | None = None
        _faces.add(self)

    def _make(self) -> AbstractAsyncContextManager[A]:
        raise NotImplementedError

    # -- the connection

    def connect(self) -> None:
        """Connect; does nothing when it is connected. Whatever happens to the connection later, it comes back by
        itself.

        Raises `BusUnavailable` when there is no broker after `connect_timeout_s`, `AccessRefused` at once for a wrong
        password or virtual host, `ConfigError`.
        """
        loop = current()
        with self._lock:
            held = self._held
            if held is not None and held.loop is loop and held.error is None and not held.is_leaving:
                return
            if held is not None and held.loop.pid != os.getpid():
                _inherited.append(held)
            self._held = self._asked = None
            self._held = _Held(loop, self._make(), self)

    def disconnect(self) -> None:
        """Handlers that run come to their end, for up to 10 s; then the connection is closed. Does nothing without one.

        Raises `ConfigError` in a handler: it would wait for itself. Call `stop()` there.
        """
        if _within.get() is self:
            raise ConfigError(f"{self!r}: disconnect() in a handler would wait for that handler; call stop() there")
        check_thread()
        with self._lock:
            held = self._held
            if held is None or held.loop.pid != os.getpid():
                self._held = None
                return
            ended = held.leave()
        self.stop("it was disconnected")
        try:
            held.loop.wait(ended)
        except BusUnavailable:
            if held.loop.is_alive:
                raise  # else the connection has gone with its thread
        finally:
            with self._lock:
                if self._held is held:
                    self._held = None

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.disconnect()

    @property
    def is_connected(self) -> bool:
        """Whether `connect()` has been called; also true while a lost connection is being made anew."""
        held = self._held
        return held is not None and held.loop.pid == os.getpid() and held.error is None

    # -- what waits

    def stop(self, reason: str = "asked to") -> None:
        """End whatever blocks in `start_consuming`, `start_worker` or `start` of this object, or the next that would:
        handlers that run come to their end, and it returns. May be called by another thread, a handler, or a signal
        handler."""
        self._asked = reason  # first: one that begins now looks for it after it has joined `_waits`
        waits = tuple(self._waits)
        for wait in waits:
            wait.stop(reason)
        if waits:
            self._asked = None

    @contextmanager
    def _blocking(self, what: str) -> Generator[Wait]:
        """A wait that signals stop, as does the end of the connection."""
        held = self._connected()
        if _within.get() is self:
            raise ConfigError(f"{self!r}: {what} in a handler would never return; call it in the main thread")
        wait = Wait(f"{what} of {self!r}")
        with wait.listening():
            self._waits.add(wait)
            try:
                if self._asked is not None:
                    wait.stop(self._asked)
                    self._asked = None
                held.when_ended(lambda: wait.stop("its connection was closed"))
                yield wait
            except FogError:
                if not self._is_left(held):
                    raise  # else it was disconnected while it began, and that is an end as any other
            finally:
                self._waits.discard(wait)
        if held.error is not None and not self._is_left(held):
            raise self._gone(held)

    # -- calls

    def _connected(self) -> _Held[A]:
        held = self._held
        if held is None or (held.is_leaving and held.error is not None):
            check_thread()
            raise self._not_connected()
        if held.loop.pid != os.getpid():
            raise ConfigError(
                f"{self!r} was connected by process {held.loop.pid} before the fork; connect() in this one"
            )
        if held.error is not None:
            raise self._gone(held)
        return held

    def _is_left(self, held: _Held[A]) -> bool:
        """Whether somebody has disconnected it meanwhile."""
        return held.is_leaving or self._held is not held

    def _not_connected(self) -> ConfigError:
        return ConfigError(f"{self!r} is not connected; call connect(), or use it as `with ...`")

    def _gone(self, held: _Held[A]) -> BusUnavailable:
        return BusUnavailable(f"{self!r} has lost its connection for good: {held.error}; connect() anew")

    def _call(self, function: Callable[[A], Awaitable[T]]) -> T:
        held = self._connected()
        try:
            return held.loop.call(function, held.inner)
        except (ActorError, RuntimeError) as error:
            if self._is_left(held):  # at this moment, by another thread
                raise self._not_connected() from error
            raise

    def _finish(self, function: Callable[[A], Awaitable[object]]) -> None:
        """At the end of a wait. What was disconnected meanwhile is finished."""
        held = self._held
        if held is None or held.error is not None:
            return
        try:
            held.loop.call(function, held.inner)
        except (FogError, RuntimeError):
            if not self._is_left(held):
                raise

    def _forked(self) -> None:
        self._lock = threading.RLock()
        self._waits.clear()


def _plain(error: BaseException) -> BaseException:
    """An error of its own instead of a group with nothing else in it."""
    causes = leaves(error)
    return causes[0] if len(causes) == 1 else error


_faces: WeakSet[Face[Any]] = WeakSet()
_inherited: list[object] = []
"""What a forked process got from its parent. Collected as garbage it would close what the parent uses."""


def _at_exit() -> None:
    """The program has ended without `disconnect()`: handlers that run come to their end all the same."""
    deadline = time.monotonic() + EXIT_S
    loops: set[Loop] = set()
    ending: list[tuple[Face[Any], Future[None]]] = []
    for face in tuple(_faces):
        held = face._held  # pyright: ignore[reportPrivateUsage]
        if held is not None and held.loop.is_alive:
            loops.add(held.loop)
            ending.append((face, held.leave()))
    for face, ended in ending:
        try:
            ended.result(max(0.0, deadline - time.monotonic()))
        except Exception as error:
            _log.warning("%r did not disconnect at the end of the program: %s", face, error or "no time was left")
    for loop in loops:
        loop.stop(LOOP_S)


def _forked() -> None:
    Wait.forget_all()
    for face in tuple(_faces):
        face._forked()  # pyright: ignore[reportPrivateUsage]


atexit.register(_at_exit)
os.register_at_fork(after_in_child=_forked)
