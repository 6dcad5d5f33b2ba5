"""The supervisor: an actor whose messages are the exits of its children.

After OTP's supervisor.erl: policy is data that was checked before; each strategy is one branch of one function; a
restart that fails is tried again by a message to self, so that between two tries everything else gets a turn. From
suture: one loop, one mailbox, typed events.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
from anyio.abc import TaskGroup

from fogactors.core.actor import STOP, Actor, StopRequested
from fogactors.core.child import Child, Exited, Stuck, TryAgain
from fogactors.core.events import ChildStuck, Exit, RestartFailed, SupervisorEscalated, SupervisorPaused
from fogactors.core.incarnation import Incarnation
from fogactors.core.ref import Ask, Ref
from fogactors.core.requests import (
    ChildInfo,
    DeleteChild,
    RemoveChild,
    RestartChild,
    StartChild,
    StopChild,
    WhichChildren,
)
from fogactors.core.spec import ChildSpec, SupervisorSpec, validate, walk
from fogactors.errors import (
    ActorError,
    ChildStuckError,
    NoSuchChild,
    RestartIntensityExceeded,
    SpecError,
    StartFailed,
)

__all__ = ["Supervisor"]


class Supervisor(Actor[Any]):
    """Made from a `SupervisorSpec`; there is no need to subclass it."""

    def __init__(self, spec: SupervisorSpec) -> None:
        self.spec = spec
        self.children: list[Child] = []
        self._window: tuple[float, ...] = ()
        self._waiting_for_start: anyio.CancelScope | None = None
        self._tasks: TaskGroup

    # -- the life of a supervisor

    async def live(self, up: Callable[[], None]) -> None:
        self.children = [self._place(spec) for spec in self.spec.children]
        self.ctx.system.supervisors[self.ctx.path] = self
        failure: Exception | None = None
        try:
            async with anyio.create_task_group() as self._tasks:
                try:
                    if self.spec.comes_back == "at_once" and self.ctx.is_restart:
                        up()
                        await self._come_back()
                    else:
                        for child in self.children:
                            await self._start(child, again=self.ctx.is_restart)
                        up()
                    await self.run()
                except Exception as error:
                    failure = error  # out of the group by hand, or it would come out wrapped in an ExceptionGroup
                finally:
                    # The children are shielded, so this is the only thing that stops them, whatever ended the loop:
                    # a stop, a failure, or a cancellation of the whole tree.
                    with anyio.CancelScope(shield=True):
                        self.ctx.leave("stopping")
                        for child in reversed(tuple(self.children)):  # a copy: who is removed leaves the list
                            await self._stop(child)
        finally:
            del self.ctx.system.supervisors[self.ctx.path]
        if failure is not None:
            raise failure

    async def run(self) -> None:
        while True:
            message = await self.ctx.mailbox.get()
            match message:
                case Exited(incarnation):
                    await self._exited(incarnation)
                case TryAgain(child, after_pause):
                    if child.state == "restarting" and child in self.children:
                        await (self._restart(child) if after_pause else self._restart_or_give_up(child))
                case Stuck(child, incarnation, waited_s):
                    if child.incarnation is incarnation and child.state == "stopping":
                        self._give_up_on(child, waited_s)
                case Ask():
                    await self._answer(message)
                case _ if message is STOP:
                    raise StopRequested
                case _:
                    pass  # a supervisor is told nothing else; a stray message must not take the tree down

    def interrupt(self) -> None:
        if self._waiting_for_start is not None:
            self._waiting_for_start.cancel()

    def give_up_start(self) -> None:
        """From outside: whoever asked for our start waits no more. Does nothing once we are up."""
        if not self.ctx.ref.is_alive:
            self.ctx.request_stop()
            self.interrupt()

    # -- exits and restarts

    async def _exited(self, incarnation: Incarnation) -> None:
        child = next((each for each in self.children if each.incarnation is incarnation), None)
        if child is None or not (child.removed or child.state in ("running", "stuck")):
            return  # we stopped it ourselves, or it never came up: dealt with where that happened
        was_stuck = child.state == "stuck"
        failed = incarnation.exit is not None and incarnation.exit.is_failure
        child.state = "stopped"
        child.incarnation = None
        if child.removed or child.spec.restart == "temporary":
            self._forget(child)
        elif not was_stuck and (child.spec.restart == "permanent" or failed):
            await self._restart_or_give_up(child)

    async def _restart_or_give_up(self, child: Child) -> None:
        """Restart within the intensity; past it, escalate or pause."""
        now = self.ctx.now()
        if child.up_since is not None and now - child.up_since > self.spec.intensity.period_s:
            child.pauses = 0  # it had been well for a whole period: whatever it was is over
        self._window, too_many = self.spec.intensity.record(self._window, now)
        if not too_many and not child.pauses:
            await self._restart(child)
        elif self.spec.exceeded == "escalate":
            self._escalate(child)
        else:
            await self._pause(child)

    def _escalate(self, child: Child) -> None:
        limit = self.spec.intensity
        path, id_, most, period_s = self.ctx.path, child.spec.id, limit.max_restarts, limit.period_s
        self.ctx.emit(SupervisorEscalated(path=path, at=self.ctx.now(), child=id_, restarts=most, period_s=period_s))
        raise RestartIntensityExceeded(f"{path}: {id_} needed more than {most} restarts in {period_s:g} s")

    async def _pause(self, child: Child) -> None:
        """Siblings that do not depend on the child go on; it is tried again later, and later each time."""
        # a supervisor's is for its children
        own = child.spec.backoff if isinstance(child.spec, ChildSpec) and not child.slow else None
        delay_s = (own or self.spec.backoff).delay(child.pauses, self.ctx.system.rng)
        child.pauses += 1
        affected = self._affected(child)
        await self._stop_all(affected)
        for each in affected:
            each.ref.unbind(f"down; its supervisor tries again in {delay_s:.1f} s")
        path, now = self.ctx.path, self.ctx.now()
        self.ctx.emit(SupervisorPaused(path=path, at=now, child=child.spec.id, delay_s=delay_s, pauses=child.pauses))
        self._try_again(child, delay_s, after_pause=True)

    def _try_again(self, child: Child, delay_s: float, *, after_pause: bool = False) -> None:
        """By a timer also when that is at once: the message must not overtake the questions that wait already."""
        child.state = "restarting"
        message = TryAgain(child, after_pause)
        child.again = self.ctx.system.timers.call_at(
            self.ctx.now() + delay_s, lambda: self.ctx.mailbox.put_system(message)
        )

    async def _restart(self, child: Child) -> None:
        affected = self._affected(child)
        await self._stop_all(affected)
        for each in affected:
            if each.removed:
                continue  # it has ended, and is forgotten
            if each.spec.restart == "temporary":
                self._forget(each)  # never restarted, not even for a sibling's sake
            elif not await self._start_or_try_again(each):
                return

    async def _come_back(self) -> None:
        """Start the children when we are up already: one that does not come up is one that failed."""
        for child in tuple(self.children):
            if not await self._start_or_try_again(child) and self.spec.strategy != "one_for_one":
                return  # it is tried again together with those behind it, or with all

    async def _start_or_try_again(self, child: Child) -> bool:
        try:
            await self._start(child, again=True)
        except StartFailed as failed:
            error = failed.__cause__ or failed
            slow = isinstance(child.spec, ChildSpec) and isinstance(error, child.spec.slow_after)
            if slow != child.slow:  # another trouble than before, with waits of its own
                child.slow, child.pauses = slow, 0
            self.ctx.emit(
                RestartFailed(
                    path=child.ref.path,
                    at=self.ctx.now(),
                    incarnation=self.ctx.system.incarnations.get(child.ref.path, 0),
                    error=error,
                    pauses=child.pauses,
                )
            )
            self._try_again(child, 0.0)
            return False
        return True

    def _affected(self, child: Child) -> list[Child]:
        """Who is restarted with it, in start order."""
        at = self.children.index(child)
        match self.spec.strategy:
            case "one_for_one":
                return [child]
            case "rest_for_one":
                return self.children[at:]
            case "one_for_all":
                return list(self.children)

    # -- starting and stopping one child

    def _place(self, spec: ChildSpec | SupervisorSpec) -> Child:
        return Child(spec, self.ctx.system.ref(f"{self.ctx.path}/{spec.id}"))

    async def _start(self, child: Child, *, again: bool = False) -> None:
        """`again`: as a restart. Raises `StartFailed` from the reason; `ChildStuckError`; `StopRequested` when we are
        asked to stop meanwhile."""
        if self.ctx.stop_requested:
            raise StopRequested
        spec, system = child.spec, self.ctx.system
        number = system.incarnations[child.ref.path] = system.incarnations.get(child.ref.path, 0) + 1
        incarnation = child.incarnation = Incarnation(spec, child.ref, number, system, is_restart=again)
        child.state = "starting"
        child.up_since = None
        child.ref.unbind("starting")
        self._tasks.start_soon(incarnation.run, self._heard_exit, name=child.ref.path)
        with anyio.move_on_after(spec.start_s) as self._waiting_for_start:
            await incarnation.settled.wait()
        self._waiting_for_start = None
        if incarnation.is_up:
            child.state, child.slow = "running", False
            child.restarts += 1
            child.up_since = system.clock()
            return
        if not incarnation.done.is_set():
            await self._stop_all([child])
            if self.ctx.stop_requested:
                raise StopRequested
            raise StartFailed(f"{child.ref.path} did not come up within {spec.start_s:g} s")
        child.state, child.incarnation = "stopped", None
        ended = incarnation.exit or Exit("killed")
        raise StartFailed(f"{child.ref.path} did not come up: {ended}") from ended.error

    async def _stop_all(self, children: list[Child]) -> None:
        """In reverse. Raises `ChildStuckError`: nothing may take the place of a child that still runs."""
        for child in reversed(children):
            if not await self._stop(child):
                raise ChildStuckError(f"{child.ref.path} was cancelled and did not end; end its process")

    async def _stop(self, child: Child) -> bool:
        """False when it still runs after all that we can do."""
        if child.again is not None:
            child.again.cancel()
        incarnation = child.incarnation
        if incarnation is None:
            child.state = "stopped"
            child.ref.unbind("stopped")
            if child.removed:
                self._forget(child)
            return True
        if child.state == "stuck":
            return incarnation.done.is_set()  # it had its time, and whoever waits for us has no more than that
        child.state = "stopping"
        began = self.ctx.now()
        if await incarnation.stop():
            child.state, child.incarnation = "stopped", None
            if child.removed:
                self._forget(child)
            return True
        self._give_up_on(child, self.ctx.now() - began)
        return False

    def _give_up_on(self, child: Child, waited_s: float) -> None:
        child.state = "stuck"
        self.ctx.emit(ChildStuck(path=child.ref.path, at=self.ctx.now(), waited_s=waited_s))
        for ask in child.removers:
            ask.fail(ChildStuckError(f"{child.ref.path} was cancelled and did not end"))

    def _heard_exit(self, incarnation: Incarnation) -> None:
        self.ctx.mailbox.put_system(Exited(incarnation))

    # -- requests at run time

    async def _answer(self, ask: Ask) -> None:
        if ask.abandoned:
            return
        try:
            if isinstance(ask.message, RemoveChild):
                await self._remove(ask, ask.message)
                return
            answer = await self._do(ask.message)
        except (ActorError, SpecError) as error:
            ask.fail(error)  # a wrong request is the asker's problem, not the tree's
        except BaseException:
            ask.fail(ActorError(f"{self.ctx.path} was stopped meanwhile"))
            raise
        else:
            ask.answer(answer)

    async def _do(self, request: object) -> object:
        match request:
            case WhichChildren():
                return self.which_children()
            case StartChild(spec):
                return await self._add(spec)
            case StopChild(id_):
                child = self._child(id_)
                if not await self._stop(child):
                    raise ChildStuckError(f"{child.ref.path} was cancelled and did not end")
                if child.spec.restart == "temporary" and not child.removed:
                    self._forget(child)
                return None
            case RestartChild(id_):
                child = self._stopped_child(id_)
                await self._start(child)
                return child.ref
            case DeleteChild(id_):
                self._forget(self._stopped_child(id_))
                return None
            case _:
                raise ActorError(f"{self.ctx.path} is a supervisor and does not know {type(request).__name__}")

    async def _add(self, spec: ChildSpec | SupervisorSpec) -> Ref[Any]:
        validate(spec, self.ctx.path)
        if any(child.spec.id == spec.id for child in self.children):
            raise SpecError(f"{self.ctx.path} has a child {spec.id!r} already")
        child = self._place(spec)
        self.children.append(child)
        try:
            await self._start(child)
        except StartFailed:
            self._forget(child)
            raise
        return child.ref

    async def _remove(self, ask: Ask, request: RemoveChild) -> None:
        """Begin it; the answer is given when the child is forgotten."""
        child = self._child(request.id)
        if request.spec is not None and child.spec is not request.spec:
            raise NoSuchChild(f"{child.ref.path} is another child of that id")
        child.removers.append(ask)
        if child.removed and child.state == "stopping":
            return  # we wait for it already
        child.removed = True
        if child.incarnation is None:
            await self._stop(child)
        elif child.state == "stuck":
            ask.fail(ChildStuckError(f"{child.ref.path} was cancelled and did not end"))
        else:
            child.state = "stopping"
            self._tasks.start_soon(self._see_off, child, child.incarnation, name=f"{child.ref.path} removed")

    async def _see_off(self, child: Child, incarnation: Incarnation) -> None:
        """Beside our loop. That it ended the loop hears as of any exit."""
        began = self.ctx.now()
        if not await incarnation.stop():
            self.ctx.mailbox.put_system(Stuck(child, incarnation, self.ctx.now() - began))

    def _forget(self, child: Child) -> None:
        self.children.remove(child)
        numbers = self.ctx.system.incarnations
        for path, _ in walk(child.spec, self.ctx.path):
            numbers.pop(path, None)
        for ask in child.removers:
            ask.answer(None)

    def _child(self, id_: str) -> Child:
        for child in self.children:
            if child.spec.id == id_:
                return child
        known = ", ".join(child.spec.id for child in self.children) or "none"
        raise NoSuchChild(f"{self.ctx.path} has no child {id_!r}; it has: {known}")

    def _stopped_child(self, id_: str) -> Child:
        child = self._child(id_)
        if child.state != "stopped":
            raise ActorError(f"{child.ref.path} is {child.state}; stop it first")
        return child

    def which_children(self) -> tuple[ChildInfo, ...]:
        return tuple(
            ChildInfo(each.spec.id, each.spec.kind, each.state, max(each.restarts, 0), each.ref)
            for each in self.children
        )
