"""A place in a supervisor, and the messages with which the supervisor is told of one by itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from fogactors.core.incarnation import Incarnation
from fogactors.core.ref import Ask, Ref
from fogactors.core.requests import State
from fogactors.core.spec import ChildSpec, SupervisorSpec
from fogactors.core.timers import Timer

__all__ = ["Child", "Exited", "Stuck", "TryAgain"]


@dataclass(slots=True)
class Child:
    """A place in a supervisor. `restarts` counts incarnations after the first that came up here; `pauses` those waits
    in a row that did not help; `again` is the restart that is due; `slow`: its pace does not count, but ours;
    `removed`: it is to be forgotten when it has ended, which `removers` are told then."""

    spec: ChildSpec | SupervisorSpec
    ref: Ref[Any]
    state: State = "stopped"
    incarnation: Incarnation | None = None
    restarts: int = -1
    up_since: float | None = None
    pauses: int = 0
    again: Timer | None = None
    slow: bool = False
    removed: bool = False
    removers: list[Ask] = field(default_factory=list[Ask])


@dataclass(frozen=True, slots=True)
class Exited:
    incarnation: Incarnation


@dataclass(frozen=True, slots=True)
class TryAgain:
    """The message to self: restart this child, whose last restart failed or was put off."""

    child: Child
    after_pause: bool


@dataclass(frozen=True, slots=True)
class Stuck:
    """A child that is removed did not end when it was cancelled."""

    child: Child
    incarnation: Incarnation
    waited_s: float
