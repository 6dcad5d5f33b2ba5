"""What a tree of actors shares: the clock, timers, events, randomness and the register of refs; and its root."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakValueDictionary

import anyio

from fogactors.core.events import ChildStuck, Events, Exit
from fogactors.core.incarnation import Incarnation
from fogactors.core.ref import Ref
from fogactors.core.spec import ChildSpec, SupervisorSpec, validate
from fogactors.core.timers import Timers
from fogactors.core.waiter import waiter_factory
from fogactors.errors import ActorDead, StartFailed

if TYPE_CHECKING:
    from fogactors.core.supervisor import Supervisor

__all__ = ["ActorSystem", "Node"]


@dataclass(frozen=True, slots=True)
class Node:
    """One row of the live tree. `queued`: messages in its mailbox."""

    id: str
    path: str
    kind: Literal["worker", "supervisor"]
    state: str
    restarts: int
    queued: int
    children: tuple[Node, ...] = ()


class ActorSystem:
    """`async with ActorSystem() as system: root = await system.start(spec)`.

    On leaving, the roots stop in reverse order of their start. A root that fails cancels the body of the `async
    with` and its error is raised from it. `rng` decides jitter: pass a
    seeded one to repeat a run.
    """

    def __init__(self, *, events: Events | None = None, rng: random.Random | None = None) -> None:
        self.events = events or Events()
        self.rng = rng or random.Random()  # noqa: S311 - jitter, not secrets
        self.incarnations: dict[str, int] = {}
        self.supervisors: dict[str, Supervisor] = {}
        self._refs: WeakValueDictionary[str, Ref[Any]] = WeakValueDictionary()
        self._roots: list[Incarnation] = []
        self._failure: BaseException | None = None
        self.clock: Callable[[], float]
        self.timers: Timers

    async def __aenter__(self) -> ActorSystem:
        try:
            self.clock = asyncio.get_running_loop().time  # what anyio.current_time calls, without the detours
        except RuntimeError:
            self.clock = anyio.current_time
        self.new_waiter = waiter_factory()
        self.timers = Timers(self.clock)
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        self._tasks.start_soon(self.timers.run, name="timers")
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> bool | None:
        with anyio.CancelScope(shield=True):
            for root in reversed(tuple(self._roots)):  # a copy: each that ends leaves the list
                await self._stop(root)
        self.timers.close()
        self._tasks.cancel_scope.cancel()
        if exc is not None and not isinstance(exc, anyio.get_cancelled_exc_class()):
            # The body's own error leaves as it is: a task group would wrap it in an ExceptionGroup.
            await self._tasks.__aexit__(None, None, None)
            if self._failure is not None:
                exc.add_note(f"meanwhile the actor system failed: {self._failure}")
            return False
        swallowed = await self._tasks.__aexit__(exc_type, exc, tb)
        if self._failure is not None and (exc is None or swallowed):
            raise self._failure
        return swallowed

    async def start(self, spec: ChildSpec | SupervisorSpec) -> Ref[Any]:
        """Validate and start a tree; returns when all of it is up. Raises `SpecError`, `StartFailed`."""
        validate(spec)
        ref = self.ref(spec.id)
        if any(root.ref is ref for root in self._roots):  # also one that is still starting, stopping or stuck
            raise StartFailed(f"{spec.id} is running already")
        number = self.incarnations[spec.id] = self.incarnations.get(spec.id, 0) + 1
        root = Incarnation(spec, ref, number, self)
        self._roots.append(root)
        self._tasks.start_soon(root.run, self._root_ended, name=spec.id)
        try:
            with anyio.move_on_after(spec.start_s):
                await root.settled.wait()
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await self._stop(root)  # it is a task of the system, not of our caller, so nothing else ends it
            raise
        if root.is_up:
            return ref
        if not root.done.is_set():
            await self._stop(root)
            raise StartFailed(f"{spec.id} did not come up within {spec.start_s:g} s")
        error = (root.exit or Exit("killed")).error
        if isinstance(error, StartFailed):
            raise error  # of a child: it says already what did not come up
        raise StartFailed(f"{spec.id} did not come up: {root.exit}") from error

    async def stop(self, ref: Ref[Any]) -> None:
        """Stop a root that `start` returned, and wait until it is down. Bounded by its `shutdown_s`."""
        for root in self._roots:
            if root.ref is ref:
                await self._stop(root)
                return
        raise ActorDead(f"{ref.path} is not a root of this system")

    def ref(self, path: str) -> Ref[Any]:
        """The address of a place in the tree, whether or not anything lives there yet."""
        ref = self._refs.get(path)
        if ref is None:
            ref = self._refs[path] = Ref(path, self.timers, self.new_waiter)
        return ref

    def tree(self) -> tuple[Node, ...]:
        """The live tree, as it is at this moment."""
        return tuple(
            Node(
                root.spec.id,
                root.ref.path,
                root.spec.kind,
                "running" if root.is_up and not root.done.is_set() else "starting",
                0,
                root.ref.queued,
                self._children(root.ref.path),
            )
            for root in self._roots
        )

    def _children(self, path: str) -> tuple[Node, ...]:
        supervisor = self.supervisors.get(path)
        if supervisor is None:
            return ()
        return tuple(
            Node(
                each.id,
                each.ref.path,
                each.kind,
                each.state,
                each.restarts,
                each.ref.queued,
                self._children(each.ref.path),
            )
            for each in supervisor.which_children()
        )

    async def _stop(self, root: Incarnation) -> None:
        began = self.clock()
        if not await root.stop():
            self.events.emit(ChildStuck(path=root.ref.path, at=self.clock(), waited_s=self.clock() - began))

    def _root_ended(self, root: Incarnation) -> None:
        self._roots.remove(root)
        if not root.is_up or root.exit is None or not root.exit.is_failure:
            return
        if root.exit.error is None and root.context.stop_requested:
            return  # killed by us, because it took too long to stop
        self._failure = root.exit.error or ActorDead(f"{root.ref.path} was killed")
        self._tasks.cancel_scope.cancel()
