"""What one may ask of a supervisor while it runs: `await ref.ask(StartChild(spec), timeout=...)`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from fogactors.core.ref import Ref
    from fogactors.core.spec import ChildSpec, SupervisorSpec

__all__ = [
    "ChildInfo",
    "DeleteChild",
    "RemoveChild",
    "RestartChild",
    "StartChild",
    "State",
    "StopChild",
    "WhichChildren",
]


@dataclass(frozen=True, slots=True)
class StartChild:
    """Add a child and start it; the answer is its ref. Raises `SpecError`, `StartFailed` (then it is not added)."""

    spec: ChildSpec | SupervisorSpec


@dataclass(frozen=True, slots=True)
class StopChild:
    """Stop a child for good (unless a sibling's failure restarts all). Its spec stays, for `RestartChild`; a
    `temporary` child's spec goes. Raises `NoSuchChild`, `ChildStuckError`."""

    id: str


@dataclass(frozen=True, slots=True)
class RestartChild:
    """Start a child that is stopped; the answer is its ref. Raises `ActorError`, `StartFailed`."""

    id: str


@dataclass(frozen=True, slots=True)
class DeleteChild:
    """Forget the spec of a child that is stopped. Raises `ActorError`."""

    id: str


@dataclass(frozen=True, slots=True)
class RemoveChild:
    """Stop a child and forget it. Unlike `StopChild` and `DeleteChild` it is one step: from here on nothing starts the
    child again, whatever fails while it stops. And the supervisor does not wait for it: it hears of exits meanwhile,
    and several that are removed come to their end at the same time. `spec`: only a child that was made of this very
    one. Raises `NoSuchChild`, `ChildStuckError`."""

    id: str
    spec: ChildSpec | SupervisorSpec | None = None


@dataclass(frozen=True, slots=True)
class WhichChildren:
    """The answer is a tuple of `ChildInfo` in start order."""


State = Literal["stopped", "starting", "running", "restarting", "stopping", "stuck"]


@dataclass(frozen=True, slots=True)
class ChildInfo:
    id: str
    kind: Literal["worker", "supervisor"]
    state: State
    restarts: int
    ref: Ref[Any]
