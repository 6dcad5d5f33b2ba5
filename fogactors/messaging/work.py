"""What runs the tasks of a queue of one's own: the executor of the tiers, with other queues, and an ear for orders."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final

from msgspec.structs import replace

from fogactors.bus.base import Bus
from fogactors.coord.base import Coord
from fogactors.core import ActorExited, ChildSpec, Ref, RestartFailed
from fogactors.messages import PRIORITIES, Command, Control, Priority, Task
from fogactors.messaging.queue_task import Handlers
from fogactors.tasks import control
from fogactors.tasks.events import (
    QueueUnavailable,
    ResultUnrecorded,
    TaskDeadLettered,
    TaskIsolated,
    TaskRetried,
    ThreadAbandoned,
)
from fogactors.tasks.executor import KILL_S, TierExecutor
from fogactors.tasks.executor_config import ExecutorConfig
from fogactors.tasks.isolation import ProcessPool
from fogactors.tasks.requests import Cancel, Refresh, TaskWhere, Where
from fogactors.tasks.routes import Route
from fogactors.tasks.tiers import Tier, Tiers
from fogactors.wire.work import work_queue, work_room

__all__ = ["WorkRoutes", "executor", "listener", "log_fact", "tiers_for"]

DRAIN_MARGIN_S: Final = 8.0
"""What a worker may take beyond its drain: to hand back what did not finish, and to close channels."""

_log: Final = logging.getLogger("fogactors.tasks")


@dataclass(frozen=True, slots=True)
class WorkRoutes:
    """Those of one queue of a user's own. `levels`: one queue, in which the broker sorts by priority."""

    name: str
    exchange: str
    declared: bool = False
    levels: bool = False

    @property
    def priorities(self) -> tuple[Priority, ...]:
        return ("normal",) if self.levels else PRIORITIES

    def of(self, priority: Priority, tier: str) -> Route:
        queue = work_queue(self.name, "normal" if self.levels else priority, declared=self.declared)
        return Route(self.exchange, queue, queue)

    def room(self, queue: str) -> str:
        return work_room(queue)

    def level(self, task: Task) -> int | None:
        return task.level if self.levels else None


def tiers_for(name: str, concurrency: int) -> Tiers:
    """One, as large as so many tasks that state no need."""
    return Tiers((Tier(name, float(concurrency), concurrency, concurrency),))


def executor(
    id: str,  # noqa: A002
    bus: Bus,
    coord: Coord,
    handlers: Handlers,
    config: ExecutorConfig,
    concurrency: int,
) -> ChildSpec:
    tiers = tiers_for(config.tier, concurrency)
    most = len(PRIORITIES) * config.prefetch(tiers)
    return ChildSpec(
        id=id,
        # Its handlers run in the loop and in threads, so the pool is never asked for a process.
        factory=lambda: TierExecutor(config, bus, coord, handlers, tiers, lambda: ProcessPool(1)),
        shutdown_s=config.drain_s + DRAIN_MARGIN_S + KILL_S,
        mailbox=2 * most + 16,
    )


def listener(bus: Bus, node: str, role: str, worker: Ref[object], handlers: Handlers) -> ChildSpec:
    """Hears what is asked about tasks, and which are cancelled. Where a task is answers the executor; how far it is
    only its handler knows."""

    async def ask(order: Cancel | Where) -> TaskWhere | None:
        found: TaskWhere | None = await worker.ask(order)
        task = handlers.running.get(order.task_id)
        if found is None or found.state != "running" or task is None:
            return found
        return replace(found, progress=task.progress_made, note=task.note)

    async def where(_: control.ControlActor, order: Control) -> TaskWhere | None:
        return await ask(Where(order.task_id or ""))

    async def cancel(_: control.ControlActor, order: Control) -> TaskWhere | None:
        return await ask(Cancel(order.task_id or ""))

    async def listens(_: control.ControlActor) -> None:
        # What was cancelled after the worker asked the store, and before we could hear of it.
        await worker.ask(Refresh())

    orders: dict[Command, control.Order] = {"cancel": cancel, "where": where}
    return control.child(bus, node, role, orders, listens)


def log_fact(fact: object) -> None:
    """For a program that does not care for facts: the bad ones, to the logger `fogactors.tasks`."""
    match fact:
        case TaskRetried():
            _log.warning(
                "%s %s: attempt %d: %s; again in %g s", fact.name, fact.task_id, fact.attempt, fact.error, fact.delay_s
            )
        case TaskDeadLettered():
            _log.error(
                "%s %s of %s: given up (%s): %s; it is a dead letter",
                fact.name,
                fact.task_id,
                fact.origin,
                fact.reason,
                fact.error,
            )
        case TaskIsolated():
            _log.warning("%s %s: %d workers were lost with it; it is run alone", fact.name, fact.task_id, fact.crashes)
        case ThreadAbandoned():
            _log.warning("%s %s: its thread cannot be stopped, and runs on", fact.name, fact.task_id)
        case ResultUnrecorded():
            _log.warning("%s: the store is %s: %s", fact.worker, "away" if fact.away else "back", fact.error)
        case QueueUnavailable():
            _log.warning("%s: %s", fact.worker, fact.error)
        case ActorExited() if fact.exit.is_failure:
            _log.warning("%s: %s", fact.path, fact.exit)
        case RestartFailed():
            _log.warning("%s did not come up: %s", fact.path, fact.error)
        case _:
            pass
