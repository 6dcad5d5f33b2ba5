"""An event as its handler sees it, and the handler: how its data is decoded, and where it runs."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Final, Generic, TypeVar, cast

import anyio
import msgspec
from msgspec import Raw

from fogactors.errors import ConfigError, TimeLimitExceeded, WireError
from fogactors.messages import Event as WireEvent
from fogactors.messaging.handlers import to_json
from fogactors.messaging.threads import Place, Threads
from fogactors.wire.topology import EVENTS_PREFIX

__all__ = ["Event", "EventHandler", "check_event_type", "check_group", "check_pattern", "encode_data", "group_queue"]

T = TypeVar("T")

_TYPE: Final = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_PATTERN: Final = re.compile(r"([A-Za-z0-9_-]+|\*|#)(\.([A-Za-z0-9_-]+|\*|#))*")
_GROUP: Final = re.compile(r"[A-Za-z0-9_-]+")
NAME_LIMIT: Final = 200
"""Bytes; AMQP's names and keys end at 255, and a queue's name has a group and a pattern in it."""
_BAD_VALUE: Final = (TypeError, ValueError, OverflowError, RecursionError)


@dataclass(frozen=True, slots=True)
class Event(Generic[T]):
    """Something that happened. `event_type`: `service.entity.action`. `timestamp`: when, in UTC. `source`: who says so.

    `correlation_id`: the conversation that it is part of; its first event's `event_id` unless somebody chose one.
    `causation_id`: the message whose handler published it. `attempt`: 1 at the first try to handle it.
    """

    event_id: str
    event_type: str
    timestamp: datetime
    source: str
    data: T
    correlation_id: str | None = None
    causation_id: str | None = None
    attempt: int = 1


def check_event_type(event_type: str) -> None:
    """Raises `ConfigError`."""
    if not _TYPE.fullmatch(event_type) or len(event_type) > NAME_LIMIT:
        raise ConfigError(
            f"an event's type is words with dots between them, as service.entity.action, not {event_type!r:.60}"
        )


def check_pattern(pattern: str) -> None:
    """Raises `ConfigError`."""
    if not _PATTERN.fullmatch(pattern) or len(pattern) > NAME_LIMIT:
        raise ConfigError(
            f"a pattern is words with dots between them, * for one and # for any number, not {pattern!r:.60}"
        )


def check_group(group: str) -> None:
    """Raises `ConfigError`."""
    if not _GROUP.fullmatch(group) or len(group) > NAME_LIMIT // 4:
        raise ConfigError(f"a group is one word of letters, digits, - and _, not {group!r:.60}")


def group_queue(group: str, pattern: str) -> str:
    """`events.<group>.<pattern>`, with `+` for `*`, which the client library lets into no name."""
    return f"{EVENTS_PREFIX}{group}.{pattern.replace('*', '+')}"


def encode_data(event_type: str, data: Any) -> Raw:
    """As JSON: what msgspec encodes, so dicts, dataclasses, Structs, times and UUIDs too. Raises `WireError`."""
    try:
        return Raw(to_json(data))
    except _BAD_VALUE as error:
        raise WireError(f"event {event_type}: its data has no JSON form: {error}") from error


class EventHandler:
    """A plain or an `async` function of one event. The data comes as `data_type`, or as the annotation says
    (`event: Event[PrintStarted]`), else as JSON has it. `timeout_s`: of one run. `threads`: so many at once.

    Raises `ConfigError` for what cannot take one event.
    """

    def __init__(self, fn: Callable[[Any], Any], data_type: Any, timeout_s: float, threads: int) -> None:
        self.name = getattr(fn, "__qualname__", repr(fn))
        called = fn if inspect.isroutine(fn) else getattr(fn, "__call__", fn)  # noqa: B004 - an object that is callable
        self._fn = fn
        self.is_async = inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(called)  # a partial, an object
        self.timeout_s = timeout_s
        # Threads of its own, so that handlers that block wait for no one but each other.
        self.threads = Threads(threads)
        try:
            inspect.signature(fn).bind(None)
            wanted = _annotated(called) if data_type is None else data_type
            self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(wanted)
        except (TypeError, ValueError, NameError) as error:
            raise ConfigError(f"{self.name} cannot handle events: {error}") from error

    def decode(self, wire: WireEvent) -> Event[Any]:
        """Raises `WireError` for data of another type."""
        try:
            data = self._decoder.decode(wire.data)
        except _BAD_VALUE as error:
            raise WireError(f"event {wire.event_type}: its data does not fit {self.name}: {error}") from error
        return Event(
            event_id=wire.event_id,
            event_type=wire.event_type,
            timestamp=wire.timestamp,
            source=wire.source,
            data=data,
            correlation_id=wire.correlation_id,
            causation_id=wire.causation_id,
            attempt=wire.attempt,
        )

    async def run(self, event: Event[Any], place: Place | None) -> None:
        """Raises what the function raises, and `TimeLimitExceeded`. A plain one needs a `place` and runs in a thread;
        that cannot be ended, so past its time it runs on, keeps its place, and nobody waits for it."""
        with anyio.move_on_after(self.timeout_s) as scope:
            if place is None:
                await cast("Awaitable[Any]", self._fn(event))
                return
            left = await place.run(partial(self._fn, event))
            if inspect.isawaitable(left):  # a lambda around an async function
                await left
        if scope.cancelled_caught:
            runs_on = "" if place is None else "; it is a thread and cannot be stopped, so it may still run"
            raise TimeLimitExceeded(f"{self.name} ran longer than {self.timeout_s:g} s{runs_on}")


def _annotated(called: Any) -> Any:
    """`X` of a parameter that is an `Event[X]`."""
    parameters = [each for each in inspect.signature(called).parameters if each != "self"]
    hint = typing.get_type_hints(called).get(parameters[0]) if parameters else None
    arguments = typing.get_args(hint) if typing.get_origin(hint) is Event else ()
    return arguments[0] if arguments and not isinstance(arguments[0], TypeVar) else Any
