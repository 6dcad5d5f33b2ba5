"""One life of a child: a task, a cancel scope, a mailbox, and the exit that it ends with."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import anyio

from fogactors.core.actor import Actor, Context, Stop, StopRequested
from fogactors.core.events import ActorExited, ActorStarted, Exit, MailboxOverflow
from fogactors.core.mailbox import Mailbox
from fogactors.core.ref import Ask, Ref
from fogactors.core.spec import CANCEL_GRACE_S, ChildSpec, SupervisorSpec
from fogactors.errors import MailboxFull, StartFailed, StrayCancellation

if TYPE_CHECKING:
    from fogactors.core.system import ActorSystem

__all__ = ["Incarnation"]

KILLED_CLEANUP_S = 1.0
"""Seconds that `on_stop` has after the actor was cancelled."""


class Incarnation:
    """Made by whoever starts the child, who then runs `run` in a task group and waits for `settled` and `done`.

    Until it is up it can be cancelled from outside like any task. From then on its scope is shielded and only
    `kill` ends it: when a whole tree is cancelled, each supervisor stops its children in reverse order, and no
    cancellation from further out overtakes it (plain nested task groups unwind in an order of their own).
    """

    __slots__ = (
        "actor",
        "context",
        "done",
        "exit",
        "is_up",
        "number",
        "ref",
        "scope",
        "settled",
        "spec",
        "system",
    )

    def __init__(
        self,
        spec: ChildSpec | SupervisorSpec,
        ref: Ref[Any],
        number: int,
        system: ActorSystem,
        *,
        is_restart: bool = False,
    ) -> None:
        self.spec = spec
        self.ref = ref
        self.number = number
        self.system = system
        self.scope = anyio.CancelScope()
        self.settled = anyio.Event()
        """Set when it is up, or ended without coming up."""
        self.done = anyio.Event()
        self.is_up = False
        self.exit: Exit | None = None
        self.actor: Actor[Any] | None = None
        mailbox = Mailbox(ref.path, spec.mailbox, spec.overflow, system.new_waiter, self._overflowed)
        self.context: Context[Any] = Context(ref, mailbox, number, system, is_restart=is_restart)

    async def run(self, on_exit: Callable[[Incarnation], None]) -> None:
        """Live and tell `on_exit`. Raises nothing but a cancellation from outside, and that only before it is up."""
        began = self.system.clock()

        def up() -> None:
            # Not earlier, or a start could not be cancelled.
            self.scope.shield = True
            self.is_up = True
            self.ref.bind(self, self.context.mailbox)
            self._emit(ActorStarted, incarnation=self.number, took_s=self.system.clock() - began)
            self.settled.set()

        outcome = Exit("killed")
        try:
            with self.scope:
                outcome = await self._live(up)
        finally:
            self._end(outcome)
            on_exit(self)

    def request_stop(self) -> None:
        self.context.request_stop()
        if self.actor is not None:
            self.actor.interrupt()

    def kill(self) -> None:
        self.scope.cancel()

    async def stop(self) -> bool:
        """Request, wait `shutdown_s`, cancel, wait `CANCEL_GRACE_S`. False when it still runs after that.

        A worker that is not up yet is cancelled at once. A supervisor never is: it gives up the start that it waits
        for by itself, and then needs its time to stop what is up already.
        """
        patience_s = self.spec.shutdown_s if self.is_up or self.spec.kind == "supervisor" else 0.0
        if patience_s > 0:
            self.request_stop()
            with anyio.move_on_after(patience_s):
                await self.done.wait()
        if not self.done.is_set():
            self.kill()
            with anyio.move_on_after(CANCEL_GRACE_S):
                await self.done.wait()
        return self.done.is_set()

    async def _live(self, up: Callable[[], None]) -> Exit:
        outcome = Exit("returned")
        try:
            actor = self.actor = self.spec.make()
            if not isinstance(cast("object", actor), Actor):
                raise StartFailed(f"{self.ref.path}: its factory returned {actor!r}, which is no Actor")
            actor.ctx = self.context
            await actor.live(up)
        except Stop:
            pass
        except StopRequested:
            outcome = Exit("stopped")
        except Exception as error:
            outcome = Exit("failed", error)
        except anyio.get_cancelled_exc_class():
            # Either a scope was cancelled, ours or (before we are up) one further out; or a library cancelled this
            # very task, which left alone would unwind every task group above us as if all had gone well.
            cancelled = _is_cancelled()
            if cancelled and not self.is_up:
                raise
            outcome = Exit("killed") if cancelled else Exit("failed", StrayCancellation())
        if not self.is_up or self.actor is None:
            return outcome
        # Before the cleanup, which may take long: whoever asked must not wait for it.
        self.context.leave("stopping")
        try:
            # A killed actor's scope is cancelled, so its cleanup needs a shield; otherwise a kill must be able to
            # cut it short.
            killed = outcome.kind == "killed"
            with anyio.move_on_after(KILLED_CLEANUP_S if killed else self.spec.shutdown_s, shield=killed):
                await self.actor.on_stop(outcome)
        except Exception as error:
            if outcome.error is None:
                outcome = Exit("failed", error)
        except anyio.get_cancelled_exc_class():
            if _is_cancelled():
                raise
            if outcome.error is None:
                outcome = Exit("failed", StrayCancellation())
        return outcome

    def _end(self, outcome: Exit) -> None:
        self.exit = outcome
        self.context.cancel_timers()
        self.context.leave("stopped" if outcome.kind in ("returned", "stopped") else "down")
        if self.is_up:
            self._emit(ActorExited, incarnation=self.number, exit=outcome)
        self.settled.set()
        self.done.set()

    def _overflowed(self, lost: Any, total: int) -> None:
        if type(lost) is Ask:
            lost.fail(MailboxFull(f"{self.ref.path}: its mailbox is full; the question was dropped as the oldest"))
        if total & (total - 1) == 0:
            self._emit(MailboxOverflow, policy=self.spec.overflow, total=total)

    def _emit(self, event: Callable[..., Any], **facts: Any) -> None:
        self.system.events.emit(event(path=self.ref.path, at=self.system.clock(), **facts))


def _is_cancelled() -> bool:
    """Whether a scope that reaches this task was cancelled."""
    return anyio.current_effective_deadline() == -math.inf
