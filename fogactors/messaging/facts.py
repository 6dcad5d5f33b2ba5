"""What happens to events on their way to a handler: one frozen value per fact, beside the actors' own."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from fogactors.core import ActorExited, RestartFailed
from fogactors.messages import Reason

__all__ = ["EventDeadLettered", "EventGroupFull", "EventRetried", "log_fact"]

_log: Final = logging.getLogger("fogactors.events")


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFact:
    """`queue`: the subscription's."""

    at: datetime
    queue: str
    event_id: str
    event_type: str
    correlation_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRetried(EventFact):
    """Its handler failed, and will be called again in `delay_s`."""

    attempt: int
    error: str
    delay_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EventDeadLettered(EventFact):
    """It was given up on. `kept`: it is a dead letter; without a group nobody could be given it back, so there it is
    not."""

    reason: Reason
    error: str
    kept: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class EventGroupFull:
    """So many events wait that the oldest are dropped. `total`: how often that was seen; told at the 1st, 2nd, 4th,
    8th ... time."""

    at: datetime
    queue: str
    ready: int
    total: int


def log_fact(fact: object) -> None:
    """For a program that does not care for facts: the bad ones, to the logger `fogactors.events`."""
    match fact:
        case EventRetried():
            _log.warning("%s: attempt %d: %s; again in %g s", _what(fact), fact.attempt, fact.error, fact.delay_s)
        case EventDeadLettered():
            end = "a dead letter" if fact.kept else "dropped"
            _log.error("%s: given up (%s): %s; it is %s", _what(fact), fact.reason, fact.error, end)
        case EventGroupFull():
            _log.warning("%s: %d events wait, the oldest are dropped", fact.queue, fact.ready)
        case ActorExited() if fact.exit.is_failure:
            _log.warning("%s: %s", fact.path, fact.exit)
        case RestartFailed():
            _log.warning("%s did not come up: %s", fact.path, fact.error)
        case _:
            pass


def _what(fact: EventFact) -> str:
    return f"event {fact.event_type} {fact.event_id} of {fact.queue}"
