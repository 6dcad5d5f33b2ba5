"""One operation on the broker: bounded in time, ended when the connection is, and its errors ours."""

from __future__ import annotations

import asyncio
import math
import os
import re
import struct
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, NoReturn

import anyio
from aiormq import exceptions as amqp

from fogactors.bus.base import Message
from fogactors.errors import (
    AccessRefused,
    BusError,
    BusUnavailable,
    MessageTooLarge,
    QueueFull,
    QueueMissing,
    TopologyMismatch,
    Unroutable,
)

__all__ = ["ANSWER_TIMEOUT_S", "Call", "text_of", "verdict"]

_SIZE: Final = re.compile(r"message size (\d+) is larger")
ANSWER_TIMEOUT_S: Final = 10.0
"""For what has no timeout of its own in the protocol: a broker that is slower than this is as good as away."""
BLOCKED_S: Final = 1.0
"""A timer that rings so much too late rings in a loop that was blocked; it rings once more after as long. What came
meanwhile has not been read yet, and a loop reads only after its timers: an answer that was in time would be too
late."""


class Call:
    """`with Call(what, timeout) as call:`, where nothing but a `BusError` comes out, or a cancellation that somebody
    asked for. `what`: the operation and its object; `late`: what to say when time is up; `sent`: whether it may have
    an effect although it fails.

    Whoever loses the connection tells `lost`. The library cannot be relied on for that: it fails what waits for an
    answer (with a CancelledError, which would end a task group as if it had been asked to), but not what waits for a
    place in its queue of frames.
    """

    __slots__ = ("_asked", "_calls", "_lost", "_scope", "_timer", "late", "sent", "timeout", "unsent", "what")

    def __init__(self, what: str, timeout: float = ANSWER_TIMEOUT_S, unsent: Any = None) -> None:
        self.what = what
        self.timeout = timeout
        self.late: str | Callable[[], str] = "the broker did not answer"
        self.sent = False
        self.unsent = unsent
        self._lost: str | None = None
        self._calls: set[Call] | None = None
        self._scope = anyio.CancelScope()
        self._asked = 0
        self._timer: asyncio.TimerHandle | None = None

    def join(self, calls: set[Call]) -> None:
        """Be one of those whose connection may be lost."""
        self._calls = calls
        calls.add(self)

    def lost(self, reason: str) -> None:
        self._lost = reason
        self._scope.cancel()

    def __enter__(self) -> Call:
        task = asyncio.current_task()
        self._asked = 0 if task is None else task.cancelling()
        self._scope.__enter__()
        loop = asyncio.get_running_loop()
        due = loop.time() + self.timeout
        self._timer = loop.call_at(due, self._ring, loop, due)
        return self

    def _ring(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        if loop.time() - due < BLOCKED_S:
            self._scope.cancel()
        else:
            self._timer = loop.call_later(BLOCKED_S, self._scope.cancel)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._calls is not None:
            self._calls.discard(self)
        self._scope.__exit__(kind, error, traceback)
        if isinstance(error, asyncio.CancelledError):
            if not self._is_cancelled_from_outside():
                raise BusUnavailable(f"{self.what}: {self._why_cancelled()}", unsent=self.unsent) from None
        elif error is not None and not isinstance(error, BusError):
            self._translate(error)

    def _is_cancelled_from_outside(self) -> bool:
        # The count alone is not enough: cleanup in a shielded scope runs in a task that was cancelled before.
        task = asyncio.current_task()
        native = task is not None and task.cancelling() > self._asked
        return native or anyio.current_effective_deadline() == -math.inf

    def _why_cancelled(self) -> str:
        hope = "; it may still arrive" if self.sent else ""
        if self._lost is not None or not self._scope.cancel_called:
            return f"the connection was lost{f': {self._lost}' if self._lost else ''}{hope}"
        late = self.late if isinstance(self.late, str) else self.late()
        return f"{late} within {round(self.timeout, 2):g} s{hope}"

    def _translate(self, error: BaseException) -> None:
        unsent, what = self.unsent, self.what
        match error:
            case amqp.PublishError():
                raise Unroutable(f"{what}: no queue takes it", unsent=unsent) from error
            case amqp.DeliveryError():
                text = f"{what}: the broker refused it; the queue is full or unavailable"
                raise QueueFull(text, unsent=unsent) from error
            case amqp.ChannelNotFoundEntity():
                text = f"{what}: {text_of(error)}; run `fogactors topology apply`"
                raise QueueMissing(text, unsent=unsent) from error
            case amqp.ChannelAccessRefused() | amqp.ChannelLockedResource():
                raise AccessRefused(f"{what}: {text_of(error)}", unsent=unsent) from error
            case amqp.ChannelPreconditionFailed():
                raise TopologyMismatch(f"{what}: {text_of(error)}", unsent=unsent) from error
            case amqp.AMQPError() | OSError() | RuntimeError():
                raise BusUnavailable(f"{what}: {text_of(error)}", unsent=unsent) from error
            case ValueError() | TypeError() | struct.error():
                self._refuse(error)
            case _:
                return

    def _refuse(self, error: BaseException) -> NoReturn:
        # A key or a property that AMQP has no room for (255 bytes). It may come from a foreign client's message.
        raise Unroutable(
            f"{self.what}: this cannot be written as AMQP: {text_of(error)}", unsent=self.unsent
        ) from error


def verdict(error: Exception, what: str, exchange: str, key: str, message: Message) -> BusError | None:
    """Why the broker closed a channel that many publish on, for the one who caused it; `None` for the others.

    The broker closes the channel for all of them and says only in words what it was. Words that name nobody are
    everybody's: were they nobody's, the one who causes it would go on trying, and take the channel from the others.
    """
    text, size = str(error), _SIZE.search(str(error))
    match error:
        case amqp.ChannelInvalidStateError():
            return None  # closed before this one was written
        case amqp.ChannelPreconditionFailed() if size is not None:
            if int(size[1]) != len(message.body):
                return None
            return MessageTooLarge(f"{what}: {text_of(error)}", unsent=message)
        case amqp.ChannelNotFoundEntity() | amqp.ChannelAccessRefused():
            if f"exchange '{exchange}'" not in text or ("topic '" in text and f"topic '{key}'" not in text):
                return None
            if isinstance(error, amqp.ChannelAccessRefused):
                return AccessRefused(f"{what}: {text_of(error)}", unsent=message)
            return Unroutable(f"{what}: there is no such exchange", unsent=message)
        case _:
            return BusUnavailable(f"{what}: {text_of(error)}", unsent=message)


def text_of(error: BaseException) -> str:
    """One line. The system's own words for what the network says."""
    cause = error if isinstance(error, OSError) and error.errno else error.__cause__
    if isinstance(cause, OSError) and cause.errno:
        return os.strerror(cause.errno) if cause.errno > 0 else str(cause.strerror)
    if isinstance(error, asyncio.CancelledError):
        return "nothing came from the broker for too long"
    words = " ".join(str(arg) for arg in error.args if arg is not None) or str(error)
    return f"{type(error).__name__}: {' '.join(words.split())[:200]}" if words else type(error).__name__
