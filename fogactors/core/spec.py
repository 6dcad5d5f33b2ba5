"""Policy as data: what a supervisor runs, and what it does when it fails. Checked whole before anything starts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, cast, get_args

from fogactors.core.actor import Actor
from fogactors.core.intensity import Backoff, Intensity
from fogactors.core.mailbox import Overflow
from fogactors.errors import SpecError

__all__ = ["CANCEL_GRACE_S", "ChildSpec", "ComesBack", "Exceeded", "Restart", "Strategy", "SupervisorSpec", "walk"]

Restart = Literal["permanent", "transient", "temporary"]
"""`permanent`: always. `transient`: only after a failure. `temporary`: never, and its spec is forgotten when it
ends."""

Strategy = Literal["one_for_one", "one_for_all", "rest_for_one"]
"""Who is restarted with a child that failed: only it; all of them; it and those that were started after it."""

Exceeded = Literal["escalate", "pause"]
"""Past the restart intensity: stop the children and fail; or wait (longer each time) and try again, for links to the
outside: a broker that is down is weather, not a bug."""

ComesBack = Literal["whole", "at_once"]
"""A supervisor that is restarted is up when all its children are, and one that does not come up fails it; or it is up
at once, and such a child is tried again like any that fails, so that what starts behind the supervisor need not wait
for it. Its first start is whole in either case: whoever asked for that is told what does not come up."""

CANCEL_GRACE_S = 2.0
"""Seconds between cancelling a child and calling it stuck."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSpec:
    """One worker.

    `factory` makes a new actor for each incarnation. `start_s`: seconds for `on_start`. `shutdown_s`: seconds
    between the request to stop and cancellation (0: cancelled at once). `mailbox`: messages; `overflow`: what a
    full one does. `backoff`: this child's own pace where its supervisor pauses; without it the supervisor's, and so
    after a start that failed with one of `slow_after`: what no hurry mends.
    """

    id: str
    factory: Callable[[], Actor[Any]]
    restart: Restart = "permanent"
    start_s: float = 10.0
    shutdown_s: float = 5.0
    mailbox: int = 1000
    overflow: Overflow = "block"
    backoff: Backoff | None = None
    slow_after: tuple[type[Exception], ...] = ()

    def make(self) -> Actor[Any]:
        return self.factory()

    @property
    def kind(self) -> Literal["worker", "supervisor"]:
        return "worker"


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisorSpec:
    """A supervisor and its children, in the order in which they start. They stop in the reverse.

    `restart` is how its own supervisor treats it. Its budgets are the sums of its children's.
    """

    id: str
    children: tuple[ChildSpec | SupervisorSpec, ...] = ()
    strategy: Strategy = "one_for_one"
    intensity: Intensity = field(default_factory=Intensity)
    exceeded: Exceeded = "escalate"
    backoff: Backoff = field(default_factory=Backoff)
    restart: Restart = "permanent"
    comes_back: ComesBack = "whole"

    overflow: Overflow = field(default="block", init=False)
    mailbox: int = field(default=1000, init=False)

    @property
    def start_s(self) -> float:
        return 1.0 + sum(child.start_s + CANCEL_GRACE_S for child in self.children)

    @property
    def shutdown_s(self) -> float:
        return 1.0 + sum(child.shutdown_s + CANCEL_GRACE_S for child in self.children)

    @property
    def kind(self) -> Literal["worker", "supervisor"]:
        return "supervisor"

    def make(self) -> Actor[Any]:
        from fogactors.core.supervisor import Supervisor

        return Supervisor(self)


def walk(spec: ChildSpec | SupervisorSpec, path: str = "") -> Iterator[tuple[str, ChildSpec | SupervisorSpec]]:
    """Every spec of a tree with its path, parents before children, in start order."""
    path = f"{path}/{spec.id}" if path else spec.id
    yield path, spec
    if isinstance(spec, SupervisorSpec):
        for child in spec.children:
            yield from walk(child, path)


def validate(spec: ChildSpec | SupervisorSpec, path: str = "") -> None:
    """Raises `SpecError` with the path of the first spec that is wrong."""
    for where, each in walk(spec, path):
        problem = _problem(each)
        if problem:
            raise SpecError(f"{where}: {problem}")


def _problem(spec: ChildSpec | SupervisorSpec) -> str | None:
    if not spec.id or "/" in spec.id:
        return f"a child's id must be a word without '/', got {spec.id!r}"
    if spec.restart not in get_args(Restart):
        return f"restart must be one of {', '.join(get_args(Restart))}, got {spec.restart!r}"
    if isinstance(spec, SupervisorSpec):
        children = cast("Any", spec.children)  # what a type checker would have seen
        kinds = (ChildSpec, SupervisorSpec)
        if not isinstance(children, tuple) or not all(isinstance(each, kinds) for each in cast("Any", children)):
            return f"children must be a tuple of ChildSpec and SupervisorSpec, got {children!r}"
        if spec.strategy not in get_args(Strategy):
            return f"strategy must be one of {', '.join(get_args(Strategy))}, got {spec.strategy!r}"
        if spec.exceeded not in get_args(Exceeded):
            return f"exceeded must be one of {', '.join(get_args(Exceeded))}, got {spec.exceeded!r}"
        if spec.comes_back not in get_args(ComesBack):
            return f"comes_back must be one of {', '.join(get_args(ComesBack))}, got {spec.comes_back!r}"
        ids = [child.id for child in spec.children]
        twice = next((id_ for id_ in ids if ids.count(id_) > 1), None)
        return f"two children have the id {twice!r}" if twice else None
    if not callable(spec.factory):
        return "factory must be a function that returns an actor"
    if not spec.start_s > 0:
        return f"start_s must be more than 0, got {spec.start_s}"
    if not 0 <= spec.shutdown_s < float("inf"):
        return f"shutdown_s must be at least 0 and finite, got {spec.shutdown_s}"
    if spec.mailbox < 1:
        return f"mailbox must hold at least 1 message, got {spec.mailbox}"
    if spec.overflow not in get_args(Overflow):
        return f"overflow must be one of {', '.join(get_args(Overflow))}, got {spec.overflow!r}"
    return None
