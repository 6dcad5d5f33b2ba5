"""Log lines, derived from events: one line per fact, JSON in containers and readable text on a terminal.

A line has `ts level event`, then what the event knows of `role node actor incarnation correlation_id message_id`,
then its own fields. Payloads are never logged. One ERROR per failure, at the level that decides: a child that
fails and is restarted is a warning, the supervisor that gives up is the error.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal, TextIO

import msgspec

from fogactors.core import (
    ActorEvent,
    ActorExited,
    ActorStarted,
    ChildStuck,
    Events,
    Exit,
    MailboxOverflow,
    MessagesDiscarded,
    RestartFailed,
    SubscriberFailed,
    SupervisorEscalated,
    SupervisorPaused,
)

__all__ = ["Level", "Log", "level_of"]

Level = Literal["debug", "info", "warning", "error"]

_RANK: Final[dict[Level, int]] = {"debug": 0, "info": 1, "warning": 2, "error": 3}

_LEVELS: Final[dict[str, Level]] = {
    "ActorStarted": "debug",
    "ChildStuck": "error",
    "ConsumerStalled": "warning",
    "DuplicateResult": "info",
    "BrokerExited": "error",
    "BusBlocked": "warning",
    "ClusterChanged": "warning",
    "ClusterRefused": "error",
    "EventDeadLettered": "error",
    "EventGroupFull": "warning",
    "EventRetried": "warning",
    "HeartbeatLost": "warning",
    "LetterIndexAway": "warning",
    "LetterIndexBehind": "warning",
    "LetterRecordSkipped": "warning",
    "LoopBlocked": "error",
    "MailboxOverflow": "warning",
    "MessagesDiscarded": "debug",
    "MetricsLost": "warning",
    "QueueUnavailable": "warning",
    "ReportRefused": "warning",
    "RequestDropped": "info",
    "RequestFailed": "warning",
    "ResultUnrecorded": "warning",
    "StaleData": "error",
    "StoreAway": "warning",
    "SubscriberFailed": "error",
    "SupervisorEscalated": "error",
    "TaskDeadLettered": "error",
    "TaskEnded": "debug",
    "TaskHandedBack": "info",
    "TaskIsolated": "warning",
    "TaskRefused": "info",
    "TaskRetried": "warning",
    "TaskStarted": "debug",
    "ThreadAbandoned": "warning",
    "WorkerCrashed": "warning",
}

_CORE: Final = (
    ActorExited,
    ActorStarted,
    ChildStuck,
    MailboxOverflow,
    MessagesDiscarded,
    RestartFailed,
    SubscriberFailed,
    SupervisorEscalated,
    SupervisorPaused,
)


def level_of(event: object) -> Level:
    """By the kind of event; an exit by what kind of exit it is, tries in a row by how many there were."""
    if isinstance(event, ActorExited):
        return "warning" if event.exit.is_failure else "debug"
    # A broker that is down for an hour is tried thousands of times: told of after 1, 2, 4, 8, ... waits.
    if isinstance(event, RestartFailed):
        return "warning" if event.pauses & (event.pauses - 1) == 0 else "debug"
    if isinstance(event, SupervisorPaused):
        return "warning" if event.pauses == 1 else "debug"
    return _LEVELS.get(type(event).__name__, "info")


class Log:
    """Writes a line for each event from `level` up. `write_urgent` is for `RoleContext.urgent`: it may be called from
    any thread, and the same event is not written again when the loop has caught up."""

    def __init__(
        self,
        level: Level = "info",
        format: Literal["auto", "text", "json"] = "auto",  # noqa: A002
        *,
        node: str = "",
        role: str = "",
        stream: TextIO | None = None,
    ) -> None:
        self._rank = _RANK[level]
        self._stream = stream or sys.stderr
        self._json = format == "json" or (format == "auto" and not self._stream.isatty())
        self._written: deque[object] = deque(maxlen=16)
        self._common = {key: value for key, value in (("node", node), ("role", role)) if value}

    def attach(self, events: Events) -> Callable[[], None]:
        return events.subscribe(self._hear)

    def write_urgent(self, event: object) -> None:
        self._written.append(event)
        self.write(event)

    def _hear(self, event: object) -> None:
        if not any(each is event for each in tuple(self._written)):
            self.write(event)

    def write(self, event: object) -> None:
        level = level_of(event)
        if _RANK[level] < self._rank:
            return
        row = self._row(level, event)
        line = msgspec.json.encode(row, enc_hook=str).decode() if self._json else _text(row)
        # One write for the line and its end: two threads must not share a line.
        self._stream.write(line + "\n")
        self._stream.flush()

    def _row(self, level: Level, event: object) -> dict[str, Any]:
        facts = _facts(event)
        at = facts.pop("at", None)
        # Events of core carry the loop's clock, which means nothing outside the process.
        ts = at if isinstance(at, datetime) and not isinstance(event, _CORE) else datetime.now(UTC)
        row: dict[str, Any] = {"ts": ts, "level": level, "event": type(event).__name__, **self._common}
        if isinstance(event, ActorEvent):
            row["actor"] = facts.pop("path")
        if "worker" in facts:
            row["actor"] = facts.pop("worker")
        if "task_id" in facts:
            row["message_id"] = facts.pop("task_id")
        return {**row, **facts}


def _facts(event: object) -> dict[str, Any]:
    if not is_dataclass(event):
        return {"detail": repr(event)}
    found: dict[str, Any] = {}
    for field in fields(event):
        value = getattr(event, field.name)
        if isinstance(value, Exit):
            found["exit"] = value.kind
            value, name = value.error, "error"
        else:
            name = field.name
        if isinstance(value, BaseException):
            value = f"{type(value).__name__}: {value}"
        elif isinstance(value, float):
            value = round(value, 4)
        if value is not None:
            found[name] = value
    return found


def _text(row: dict[str, Any]) -> str:
    ts: datetime = row.pop("ts")
    level, event = row.pop("level"), row.pop("event")
    for key in ("node", "role"):
        row.pop(key, None)
    facts = " ".join(f"{key}={_quoted(value)}" for key, value in row.items())
    return f"{ts.astimezone():%H:%M:%S.%f}"[:-3] + f" {level:<7} {event} {facts}"


def _quoted(value: object) -> str:
    text = str(value).replace("\n", " ")
    return f'"{text}"' if " " in text or not text else text
