"""The actor that runs tasks inside one resource tier.

It takes deliveries into lanes, lets `policy.choose` say which starts, runs each in a task of its own and leaves the
end of it to the settler. On a stop it drains: what waits is handed back uncounted, and what still runs after `drain_s`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

import anyio
from anyio.abc import TaskGroup

from fogactors.bus.base import Bus, Delivery
from fogactors.coord.base import Coord
from fogactors.core import Actor, Exit, StopRequested, Timer
from fogactors.errors import ActorError, BusError
from fogactors.messages import Task
from fogactors.tasks.admission import Admission, Refused, early_by, is_suspect, may_have_run
from fogactors.tasks.attempt import Cancelled, NotRun, Outcome
from fogactors.tasks.budget import MemoryBudget
from fogactors.tasks.cancellations import Cancellations
from fogactors.tasks.events import QueueUnavailable, TaskIsolated
from fogactors.tasks.executor_config import ExecutorConfig
from fogactors.tasks.executor_parts import Parts
from fogactors.tasks.hand import Hand, Load
from fogactors.tasks.intake import Delivered, Lost, Subscription, Unopened
from fogactors.tasks.isolation import ProcessPool
from fogactors.tasks.jobs import Jobs
from fogactors.tasks.policy import should_help
from fogactors.tasks.registry import Registry
from fogactors.tasks.requests import Cancel, GetLoad, Pause, Refresh, Resume, Switch, TaskWhere, Where
from fogactors.tasks.settle import Held, facts
from fogactors.tasks.tiers import Tiers

__all__ = ["KILL_S", "ExecutorConfig", "GetLoad", "Load", "Pause", "Resume", "Switch", "Where", "TierExecutor"]

KILL_S = 3.0
"""Seconds for what was cancelled to end: a process to be reaped, a channel to be closed."""

_LOOK = object()
"""Message to self: something changed, look what can start."""
_TICK = object()
"""Message to self: time has passed, look whether to help and what has waited too long."""
TICK_S: Final = 1.0


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
        memory: MemoryBudget | None = None,
    ) -> None:
        self._config = config
        self._switch = switch or Switch()
        self._memory = memory.claimant(self._look) if memory is not None and memory.total_mb else None
        self._bus = bus
        self._coord = coord
        self._tiers = tiers
        self._admission = Admission(registry, tiers, config)
        self._make_pool = make_pool
        self._hand = Hand(tiers, config.tier, config.guarantee_every, self._memory)
        self._free_since: float | None = None
        self._draining = False
        self._suspect: Held | None = None
        self._will_look = False
        self._later: Timer | None = None
        self._tasks: TaskGroup
        self._jobs: Jobs
        self._cancelled = Cancellations(coord, lambda: self._cancel(self._cancelled.__contains__))

    # -- the life of an executor

    async def on_start(self) -> None:
        parts = Parts.make(
            self._config,
            self._bus,
            self._coord,
            self._tiers,
            self._make_pool(),
            self.ctx,
            tell=self._tell,
            wanted=lambda: self._bus.is_open and self._refuses is None,
            replace=lambda stalled: self._jobs.start(self._intake.replace, stalled),
        )
        self._pool, self._intake, self._watchdog = parts.pool, parts.intake, parts.watchdog
        self._settler, self._runner = parts.settler, parts.runner
        self._hand.awaited_s = self._intake.awaited_s

    async def run(self) -> None:
        end: Exception | None = None
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            self._jobs = Jobs(tasks, self.ctx.mailbox.put_system)
            try:
                # Not in on_start: an executor is up before its first delivery, so that no delivery finds it down.
                tasks.start_soon(self._cancelled.run)
                tasks.start_soon(self._begin)
                tasks.start_soon(self._watchdog.run)
                tick_s = min(TICK_S, max(self._config.help_after_s, 0.05)) if self._intake.can_help else TICK_S
                self.ctx.send_every(tick_s, _TICK)
                await super().run()
            except Exception as error:
                end = error
            if isinstance(end, StopRequested):
                end = await self._drain() or end
            tasks.cancel_scope.cancel()
        if end is not None:
            raise end

    async def on_stop(self, exit: Exit) -> None:  # noqa: A002
        # Side by side: a broker that is slow must not cost processes their end.
        with anyio.move_on_after(KILL_S, shield=True):
            async with anyio.create_task_group() as ends:
                ends.start_soon(self._pool.close)
                if exit.kind != "killed":  # who did not end by itself may hang in one of them
                    with suppress(Exception):  # before they go to others; and not at the cost of the processes' end
                        await self._settler.take_back()
                ends.start_soon(self._intake.close)
        if self._memory is not None:
            self._memory.close()

    async def handle(self, message: Any) -> Load | TaskWhere | None:
        match message:
            case Delivered(subscription, delivery):
                self._take(subscription, delivery)
            case GetLoad():
                return self._hand.load(helping=self._intake.helping, unrecorded=self._settler.store.unrecorded)
            case Where(task_id) | Cancel(task_id):
                where = self._hand.where(task_id, self._config.worker, self._config.now(), self.ctx.now())
                if isinstance(message, Cancel):
                    self._cancelled.hear(task_id)
                    self._jobs.start(self._cancelled.ask, task_id)
                    self._cancel(lambda task: task.id == task_id)
                return where
            case Refresh():
                self._cancelled.refresh()
            case Pause():
                await self._pause()
            case Resume():
                await self._resume()
            case Lost(subscription, _):
                await self._reopen(subscription)
            case Unopened(lane, error):
                at, who = self._config.now(), self._config.worker
                self.ctx.emit(
                    QueueUnavailable(at=at, worker=who, lane_tier=lane.tier, priority=lane.priority, error=str(error))
                )
            case Exception():  # work of ours raised what it must not
                raise message
            case _ if message is _TICK:
                await self._help_or_not()
                self._give_up_waiting()
                self._jobs.start(self._settler.store.look)
            case _:
                self._will_look = False  # _LOOK: what follows every message
        inbox = self.ctx.mailbox.items
        if not (inbox and isinstance(inbox[0], Delivered)):  # first all that has come: the next may be more urgent
            self._start_what_fits()
        return None

    async def _begin(self) -> None:
        await self._cancelled.wait_loaded()
        if self._refuses is None and not self._intake.opened:
            self._intake.open_own(self._tasks)

    @property
    def _refuses(self) -> str | None:
        """Why nothing is taken any more, if so."""
        if self._suspect is not None:
            return "another task is to be run alone"
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
        held = self._admission.read(subscription, delivery, at=self._config.now(), since=self.ctx.now())
        if isinstance(held, Refused):
            self._jobs.start(self._refuse, held)
        elif held.task in self._cancelled:
            self._jobs.start(self._settle, held, Cancelled())
        elif may_have_run(held) or held.task.not_before is not None:
            self._jobs.start(self._look_up, held)
        elif self._refuses is not None:
            self._jobs.start(self._hand_back, held, self._refuses)
        else:
            self._hand.put(held)

    async def _refuse(self, refused: Refused) -> None:
        self.ctx.emit(refused.event(self._config.worker))
        delivery, letter = refused.delivery, refused.letter
        await self._settler.surely(delivery, lambda: self._settler.refuse(delivery, letter, refused.task))
        await self._intake.settled(refused.subscription)

    async def _look_up(self, held: Held) -> None:
        """A task that may have run before, or came before its time."""
        if await self._settler.surely(held.delivery, lambda: self._settle_unrun(held)) is False:
            if is_suspect(held):
                self._isolate(held)
            self._hand.put(held)
            self._look()
        else:
            await self._settled(held)

    async def _settle_unrun(self, held: Held) -> bool:
        """Settle it if it is not to run here and now. Raises `BusError`."""
        rest_s = early_by(held, self._config.now())
        if rest_s > 0:
            await self._settler.put_off(held, rest_s)
        elif await self._settler.ended_before(held):
            return True
        elif held.task in self._cancelled:  # while it was being looked up
            await self._settler.cancelled(held)
        elif self._refuses is not None:
            await self._settler.hand_back(held, self._refuses)
        else:
            return False
        return True

    def _cancel(self, which: Callable[[Task], bool]) -> None:
        for held in self._hand.cancel(which):
            self._jobs.start(self._settle, held, Cancelled())

    def _give_up_waiting(self) -> None:
        """What has waited for so long that the broker might take it back in the midst of its run."""
        now = self.ctx.now()
        why = "it waited too long to be run within the broker's patience"
        self._hand_back_all(why, lambda held: now - held.since > self._config.max_wait_s(held.limit_s))

    async def _reopen(self, subscription: Subscription) -> None:
        if self._bus.is_open:  # else the link ends next, and takes us with it
            # Its channel is gone, and what came on it is the broker's to deliver again. What runs may finish.
            gone = self._hand.pull(lambda held: held.subscription is subscription)
            self._jobs.start(self._settler.take_back, gone)
            for held in gone:
                self._let_out(held)
            if await self._intake.drop(subscription) and not subscription.helps:
                self._tasks.start_soon(self._intake.stand, subscription.lane)

    # -- running

    def _start_what_fits(self) -> None:
        if self._suspect is not None and self._intake.unsettled > 1:
            return
        while (held := self._hand.start()) is not None:
            held.scope = anyio.CancelScope()
            self._jobs.start(self._run, held, held.scope, name=f"task {held.task.name} {held.task.id}")
        if self._hand.held_back_s and not (self._later and self._later.pending):
            self._later = self.ctx.send_after(self._hand.held_back_s, _LOOK)
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
            return release

        try:
            await self._settle(held, await self._runner.run(held, scope, on_abandoned))
        finally:
            self._hand.ended(held)
            if not abandoned:
                release()

    async def _settle(self, held: Held, outcome: Outcome) -> None:
        await self._settler.surely(held.delivery, lambda: self._settler.settle(held, outcome))
        await self._settled(held)

    async def _settled(self, held: Held) -> None:
        await self._intake.settled(held.subscription)
        self._let_out(held)

    async def _hand_back(self, held: Held, why: str) -> None:
        await self._settle(held, NotRun(why))

    def _hand_back_all(self, why: str, which: Callable[[Held], bool] = lambda _: True) -> None:
        for held in self._hand.pull(which):
            self._jobs.start(self._hand_back, held, why)

    # -- running one alone

    def _isolate(self, suspect: Held) -> None:
        """What may be killing its executors runs when nothing else is in hand: its crashes count against all."""
        self._suspect = suspect
        self.ctx.emit(TaskIsolated(**facts(suspect, self._config.worker, self._config.now()), crashes=suspect.deaths))
        self._jobs.start(self._make_room, suspect)

    async def _make_room(self, suspect: Held) -> None:
        await self._intake.cancel_all()
        self._hand_back_all("another task is to be run alone", lambda held: held is not suspect)

    def _let_out(self, held: Held) -> None:
        """Called for all that leaves our hands; when it is the suspect, work goes on."""
        if self._suspect is None:
            return
        if held is self._suspect:
            self._suspect = None
            if self._refuses is None:
                self._intake.open_own(self._tasks)
        self._look()

    # -- pausing

    async def _pause(self) -> None:
        self._switch.paused = True
        await self._intake.cancel_all()
        self._hand_back_all("paused")

    async def _resume(self) -> None:
        if self._switch.paused:
            self._switch.paused = False
            if self._refuses is None:
                self._intake.open_own(self._tasks)

    # -- helping smaller tiers

    async def _help_or_not(self) -> None:
        if self._refuses is not None:
            return
        config, helping = self._config, self._intake.helping
        wanted = should_help(
            self.ctx.now(), helping, self._free_since, self._hand.helped_since, config.help_after_s, config.help_grace_s
        )
        if wanted and not helping and self._bus.is_open:
            try:
                await self._intake.open_helping()
                opened = self._refuses is None  # what refuses since then has not seen all of them
            except BusError:  # one of their queues cannot be had: then not this time
                opened = False
            if not opened:
                await self._intake.cancel_helping()
        elif helping and not wanted:
            await self._intake.cancel_helping()
            # Not waited for: a publish may wait for its connection, and a stop would wait behind it.
            self._hand_back_all("the helper has no room", self._hand.is_helped)

    # -- draining

    async def _drain(self) -> Exception | None:
        """Bounded by `drain_s` and `KILL_S`; ends at once when the connection does, because what is in hand is the
        broker's again then. Meanwhile it is asked and told as ever: a drain is when an operator looks, and cancels; and
        what was on its way to us is ours to hand back."""
        self._draining = True
        failure: Exception | None = None
        async with anyio.create_task_group() as drain:

            async def until(end: Callable[[], Awaitable[object]]) -> None:
                nonlocal failure
                try:
                    await end()
                except Exception as error:  # out of the group by hand, or it would come out wrapped
                    failure = error
                drain.cancel_scope.cancel()

            for end in (self._bus.wait_lost, self._serve, self._let_go):
                drain.start_soon(until, end)
        return failure

    async def _serve(self) -> None:
        while True:
            with suppress(StopRequested):
                await super().run()

    async def _let_go(self) -> None:
        await self._intake.cancel_all()
        self._hand_back_all("draining")
        await self._jobs.wait_idle(self._config.drain_s)
        for held in self._hand.running:
            if held.scope is not None:
                held.scope.cancel()
        await self._jobs.wait_idle(KILL_S)
