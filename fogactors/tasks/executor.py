"""The actor that runs tasks inside one resource tier.

It takes deliveries into lanes, lets `policy.choose` say which starts, runs each in a task of its own and leaves the
end of it to the settler. On a stop it drains: nothing new is taken, what waits is handed back uncounted, what runs may
finish within `drain_s`, and the rest is cancelled and handed back.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import anyio
from anyio.abc import TaskGroup

from fogactors.bus.base import Bus, Delivery
from fogactors.coord.base import Coord
from fogactors.core import Actor, Exit, StopRequested
from fogactors.errors import ActorError, BusError
from fogactors.tasks.admission import Admission, Refused, early_by, may_have_run, too_late, waited_s
from fogactors.tasks.attempt import Attempt, Cancelled, NotRun, Outcome, Succeeded
from fogactors.tasks.events import QueueUnavailable, TaskStarted, ThreadAbandoned
from fogactors.tasks.executor_config import ExecutorConfig
from fogactors.tasks.hand import Hand, Load
from fogactors.tasks.intake import Intake, Subscription
from fogactors.tasks.isolation import ProcessPool
from fogactors.tasks.jobs import Jobs
from fogactors.tasks.policy import Lane, should_help
from fogactors.tasks.registry import Registry
from fogactors.tasks.requests import Cancel, GetLoad, Pause, Resume, Switch, Where
from fogactors.tasks.settle import Held, Settler, facts
from fogactors.tasks.tiers import Tiers
from fogactors.tasks.watchdog import Watchdog

__all__ = ["KILL_S", "ExecutorConfig", "GetLoad", "Load", "Pause", "Resume", "Switch", "Where", "TierExecutor"]


@dataclass(frozen=True, slots=True)
class _Delivered:
    subscription: Subscription
    delivery: Delivery


@dataclass(frozen=True, slots=True)
class _Lost:
    subscription: Subscription
    reason: str


@dataclass(frozen=True, slots=True)
class _Failed:
    """Message to self: work of ours raised what it must not."""

    error: Exception


KILL_S = 3.0
"""Seconds for what was cancelled to end: a process to be reaped, a channel to be closed."""

_LOOK = object()
"""Message to self: something changed, look what can start."""
_TICK = object()
"""Message to self: time has passed, look whether to help."""


class TierExecutor(Actor[Any]):
    """One per tier and node. The bus is opened by the link before it in the tree; the pool is its own."""

    def __init__(
        self,
        config: ExecutorConfig,
        bus: Bus,
        coord: Coord,
        registry: Registry,
        tiers: Tiers,
        make_pool: Callable[[], ProcessPool],
        switch: Switch | None = None,
    ) -> None:
        self._config = config
        self._switch = switch or Switch()
        self._bus = bus
        self._coord = coord
        self._tiers = tiers
        self._admission = Admission(registry, tiers, config.max_body_bytes)
        self._make_pool = make_pool
        self._hand = Hand(tiers, config.tier, config.guarantee_every)
        self._free_since: float | None = None
        self._draining = False
        self._will_look = False
        self._tasks: TaskGroup
        self._jobs: Jobs
        self._pool: ProcessPool
        self._intake: Intake
        self._watchdog: Watchdog
        self._settler: Settler
        self._attempt: Attempt

    # -- the life of an executor

    async def on_start(self) -> None:
        config = self._config
        self._pool = self._make_pool()
        self._attempt = Attempt(
            self._pool,
            inline_bytes=config.result_inline_bytes,
            time_limit_s=config.time_limit_s,
            rng=self.ctx.system.rng,
        )
        self._settler = Settler(
            self._bus,
            self._coord,
            worker=config.worker,
            emit=self.ctx.emit,
            now=self._now,
            result_ttl_s=config.result_ttl_s,
            publish_timeout_s=config.publish_timeout_s,
        )
        self._intake = Intake(
            self._bus,
            self._tiers,
            config.tier,
            prefetch=config.prefetch(self._tiers),
            deliver=lambda subscription, delivery: self._tell(_Delivered(subscription, delivery)),
            lost=lambda subscription, reason: self._tell(_Lost(subscription, reason)),
        )
        self._watchdog = Watchdog(
            self._bus,
            self._intake,
            config.watchdog_s,
            clock=self.ctx.now,
            replace=lambda stalled: self._jobs.start(self._intake.replace, stalled),
            emit=self.ctx.emit,
            worker=config.worker,
        )

    async def run(self) -> None:
        end: Exception | None = None
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            self._jobs = Jobs(tasks, lambda error: self.ctx.mailbox.put_system(_Failed(error)))
            try:
                # Not in on_start: an executor is up before its first delivery, so that no delivery finds it down.
                if not self._switch.paused:
                    self._open_own()
                tasks.start_soon(self._watchdog.run)
                if self._intake.can_help:
                    self.ctx.send_every(max(self._config.help_after_s, 0.05), _TICK)
                await super().run()
            except Exception as error:
                end = error
            if isinstance(end, StopRequested):
                await self._drain()
            tasks.cancel_scope.cancel()
        if end is not None:
            raise end

    async def on_stop(self, exit: Exit) -> None:  # noqa: A002
        with anyio.move_on_after(KILL_S, shield=True):
            await self._intake.close()
            await self._pool.close()

    async def handle(self, message: Any) -> Load | str | None:
        match message:
            case _Delivered(subscription, delivery):
                self._take(subscription, delivery)
            case GetLoad():
                return self._hand.load(helping=self._intake.helping)
            case Where(task_id):
                return self._hand.where(task_id)
            case Cancel(task_id):
                where = self._hand.where(task_id)
                for held in self._hand.cancel(task_id):
                    self._jobs.start(self._settle, held, Cancelled())
                return where
            case Pause():
                await self._pause()
            case Resume():
                await self._resume()
            case _Lost(subscription, _):
                await self._reopen(subscription)
            case _Failed(error):
                raise error
            case _ if message is _TICK:
                await self._help_or_not()
            case _:
                self._will_look = False  # _LOOK: what follows every message
        inbox = self.ctx.mailbox.items
        if not (inbox and isinstance(inbox[0], _Delivered)):  # first all that has come: the next may be more urgent
            self._start_what_fits()
        return None

    def _open_own(self) -> None:
        # Each by itself, and beside the loop: when a broker comes up its queues are ready one after the other, a tenth
        # of a second or more apart.
        for lane in self._intake.own:
            self._tasks.start_soon(self._open, lane)

    async def _open(self, lane: Lane) -> None:
        def tell(error: BusError) -> None:
            self.ctx.emit(
                QueueUnavailable(
                    at=self._now(),
                    worker=self._config.worker,
                    lane_tier=lane.tier,
                    priority=lane.priority,
                    error=str(error),
                )
            )

        await self._intake.stand(lane, lambda: self._bus.is_open and self._refuses is None, tell)

    @property
    def _refuses(self) -> str | None:
        """Why nothing is started any more, if so."""
        return "draining" if self._draining else "paused" if self._switch.paused else None

    def _tell(self, message: object) -> None:
        # Into this incarnation's own mailbox, which a ref is not. Ending: it stays unsettled until the channel closes.
        with suppress(ActorError):
            self.ctx.mailbox.put_nowait(message)

    def _look(self) -> None:
        if not self._will_look:  # one look for all tasks that end in one turn of the loop
            self._will_look = True
            self.ctx.mailbox.put_system(_LOOK)

    # -- taking

    def _take(self, subscription: Subscription, delivery: Delivery) -> None:
        held = self._admission.read(subscription, delivery, at=self._now(), since=self.ctx.now())
        if isinstance(held, Refused):
            self._jobs.start(self._refuse, held)
        elif self._refuses is not None:
            self._jobs.start(self._hand_back, held, self._refuses)
        elif may_have_run(held) or held.task.not_before is not None:
            self._jobs.start(self._look_up, held)
        else:
            self._hand.put(held)

    async def _refuse(self, refused: Refused) -> None:
        self.ctx.emit(refused.event(self._config.worker))
        try:
            await self._settler.refuse(refused.delivery, refused.letter, refused.task)
        except BusError:
            await refused.delivery.requeue()
        await self._intake.settled(refused.subscription)

    async def _look_up(self, held: Held) -> None:
        """A task that may have run before, or came before its time."""
        rest_s = early_by(held, self._now())
        try:
            if rest_s > 0:
                await self._settler.put_off(held, rest_s)
            elif await self._settler.already_recorded(held.task):
                await self._settler.duplicate(held)
            elif self._refuses is not None:
                await self._settler.hand_back(held, self._refuses)
            else:
                self._hand.put(held)
                self._look()
                return
        except BusError:
            await held.delivery.requeue()
        await self._intake.settled(held.subscription)

    async def _reopen(self, subscription: Subscription) -> None:
        if self._bus.is_open:  # else the link ends next, and takes us with it
            # Its channel is gone, and what came on it is the broker's to deliver again. What runs may finish.
            self._hand.pull(lambda held: held.subscription is subscription)
            if await self._intake.drop(subscription) and not subscription.helps:
                self._tasks.start_soon(self._open, subscription.lane)

    # -- running

    def _start_what_fits(self) -> None:
        while (held := self._hand.start()) is not None:
            held.scope = anyio.CancelScope()
            self._jobs.start(self._run, held, held.scope, name=f"task {held.task.name} {held.task.id}")
        if not self._hand.has_room:
            self._free_since = None
        elif self._free_since is None:
            self._free_since = self.ctx.now()

    async def _run(self, held: Held, scope: anyio.CancelScope) -> None:
        abandoned = False

        def release() -> None:
            self._hand.release(held)
            self._look()

        def on_abandoned() -> Callable[[], None]:
            nonlocal abandoned
            abandoned = True
            self.ctx.emit(ThreadAbandoned(**facts(held, self._config.worker, self._now())))
            return release

        outcome: Outcome | None = None
        try:
            with scope:
                outcome = await self._execute(held, on_abandoned)
            # A drain cancels the attempt, never its settling: half a settling would leave two copies of the task.
            # And what was cancelled is not to blame for how it ended.
            if held.cancelled and not isinstance(outcome, Succeeded):
                outcome = Cancelled()
            elif outcome is None or (scope.cancel_called and not isinstance(outcome, Succeeded)):
                outcome = NotRun("it did not finish within the drain")
            await self._settle(held, outcome)
        finally:
            self._hand.ended(held)
            if not abandoned:
                release()

    async def _execute(self, held: Held, on_abandoned: Callable[[], Callable[[], None]]) -> Outcome:
        task, now = held.task, self._now()
        if (late := too_late(task, now)) is not None:
            return late
        held.started = now
        self.ctx.emit(TaskStarted(**facts(held, self._config.worker, now), wait_s=waited_s(task, now)))
        return await self._attempt.run(task, held.definition, on_abandoned)

    async def _settle(self, held: Held, outcome: Outcome) -> None:
        try:
            await self._settler.settle(held, outcome)
        except BusError:
            # Its end could not be published. If the connection is gone this does nothing, and the broker delivers
            # again; if a queue is full it comes again at the cost of one delivery.
            await held.delivery.requeue()
        await self._intake.settled(held.subscription)

    async def _hand_back(self, held: Held, why: str) -> None:
        await self._settle(held, NotRun(why))

    # -- pausing

    async def _pause(self) -> None:
        self._switch.paused = True
        await self._intake.cancel_all()
        for held in self._hand.pull():
            self._jobs.start(self._hand_back, held, "paused")

    async def _resume(self) -> None:
        if self._switch.paused:
            self._switch.paused = False
            self._open_own()

    # -- helping smaller tiers

    async def _help_or_not(self) -> None:
        if self._switch.paused:
            return
        config, helping = self._config, self._intake.helping
        wanted = should_help(
            self.ctx.now(), helping, self._free_since, self._hand.helped_since, config.help_after_s, config.help_grace_s
        )
        if wanted and not helping and self._bus.is_open:
            try:
                await self._intake.open_helping()
            except BusError:  # one of their queues cannot be had: then not this time
                await self._intake.cancel_helping()
        elif helping and not wanted:
            await self._intake.cancel_helping()
            # Not waited for: a publish may wait for its connection, and a stop would wait behind it.
            for held in self._hand.pull(self._hand.is_helped):
                self._jobs.start(self._hand_back, held, "the helper has no room")

    # -- draining

    async def _drain(self) -> None:
        """Bounded by `drain_s` and `KILL_S`; ends at once when the connection does, because what is in hand is the
        broker's again then."""
        async with anyio.create_task_group() as drain:

            async def watch() -> None:
                await self._bus.wait_lost()
                drain.cancel_scope.cancel()

            drain.start_soon(watch)
            await self._let_go()
            drain.cancel_scope.cancel()

    async def _let_go(self) -> None:
        self._draining = True
        await self._intake.cancel_all()
        inbox = self.ctx.mailbox.items
        for message in [each for each in inbox if isinstance(each, _Delivered)]:  # not yet read, and ours to hand back
            inbox.remove(message)
            self._take(message.subscription, message.delivery)
        for held in self._hand.pull():
            self._jobs.start(self._hand_back, held, "draining")
        await self._jobs.wait_idle(self._config.drain_s)
        for held in self._hand.running:
            if held.scope is not None:
                held.scope.cancel()
        await self._jobs.wait_idle(KILL_S)

    def _now(self) -> datetime:
        return datetime.now(UTC)
