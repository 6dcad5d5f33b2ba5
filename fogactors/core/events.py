"""What happens in a tree of actors: one frozen value per fact.

Log lines, metrics and rows on a screen are derived from these in `observe`; nothing in `core` logs. `at` is the event
loop's clock in seconds, `path` the actor's place in the tree (`root/executor/link`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

__all__ = [
    "ActorEvent",
    "ActorStarted",
    "ActorExited",
    "ChildStuck",
    "Events",
    "Exit",
    "MailboxOverflow",
    "MessagesDiscarded",
    "RestartFailed",
    "SubscriberFailed",
    "SupervisorEscalated",
    "SupervisorPaused",
]


@dataclass(frozen=True, slots=True)
class Exit:
    """Why an actor ended. `returned`: of its own accord. `stopped`: it was asked to. `failed`: it raised `error`.
    `killed`: it was cancelled."""

    kind: Literal["returned", "stopped", "failed", "killed"]
    error: BaseException | None = None

    @property
    def is_failure(self) -> bool:
        """Whether a `transient` child is restarted after it."""
        return self.kind in ("failed", "killed")

    def __str__(self) -> str:
        return f"failed: {type(self.error).__name__}: {self.error}" if self.error is not None else self.kind


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorEvent:
    path: str
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorStarted(ActorEvent):
    """An incarnation is up. The first is number 1."""

    incarnation: int
    took_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorExited(ActorEvent):
    """An incarnation that was up has ended."""

    incarnation: int
    exit: Exit


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartFailed(ActorEvent):
    """An incarnation did not come up; it is tried again within the restart intensity. `pauses`: waits in a row that did
    not help."""

    incarnation: int
    error: BaseException
    pauses: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisorPaused(ActorEvent):
    """`child` failed more often than the restart intensity allows; it is tried again in `delay_s`."""

    child: str
    delay_s: float
    pauses: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisorEscalated(ActorEvent):
    """`child` failed more often than the restart intensity allows; the supervisor stops its children and fails."""

    child: str
    restarts: int
    period_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildStuck(ActorEvent):
    """The actor was cancelled and did not end: it shields itself or blocks. Nothing takes its place."""

    waited_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MailboxOverflow(ActorEvent):
    """A message was refused or, under `drop_oldest`, lost. Told at the 1st, 2nd, 4th, 8th ..., so that a flood stays
    cheap."""

    policy: str
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MessagesDiscarded(ActorEvent):
    """What was still in the mailbox when the actor ended. Each ask among it was answered `ActorDead`."""

    tells: int
    asks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriberFailed(ActorEvent):
    """A subscriber of these events raised and was removed: an observer must not stop what it observes."""

    error: Exception


class Events:
    """Hands each event to every subscriber, at once and in order of subscription. Subscribers are plain functions that
    do not block."""

    def __init__(self) -> None:
        self._subscribers: list[Callable[[object], None]] = []

    def subscribe(self, subscriber: Callable[[object], None]) -> Callable[[], None]:
        """Returns the function that ends the subscription."""
        self._subscribers.append(subscriber)

        def unsubscribe() -> None:
            if subscriber in self._subscribers:
                self._subscribers.remove(subscriber)

        return unsubscribe

    def emit(self, event: object) -> None:
        for subscriber in tuple(self._subscribers):
            try:
                subscriber(event)
            except Exception as error:
                if subscriber not in self._subscribers:
                    continue  # it left by itself, or failed on an event within this one
                self._subscribers.remove(subscriber)
                self.emit(SubscriberFailed(path=repr(subscriber), at=getattr(event, "at", 0.0), error=error))
