"""What a delivery is: a task that this executor can run, one that may have run before, or one to refuse."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from fogactors.bus.base import Delivery
from fogactors.errors import NoTierFits, UnknownTask, WireError
from fogactors.messages import DeadLetter, Task
from fogactors.tasks.deadletter import from_delivery, of_task
from fogactors.tasks.events import TaskRefused
from fogactors.tasks.failures import brief, error_info
from fogactors.tasks.intake import Subscription
from fogactors.tasks.registry import Registry
from fogactors.tasks.settle import Held
from fogactors.tasks.tiers import Tiers
from fogactors.wire.codec import decode

__all__ = ["Admission", "Refused", "early_by", "may_have_run"]


@dataclass(frozen=True, slots=True)
class Refused:
    """`task` is missing when the bytes are none."""

    subscription: Subscription
    delivery: Delivery
    letter: DeadLetter
    task: Task | None = None

    def event(self, worker: str) -> TaskRefused:
        letter, lane = self.letter, self.subscription.lane
        return TaskRefused(
            at=letter.last,
            worker=worker,
            task_id=letter.task_id or "",
            name=letter.name or "",
            lane_tier=lane.tier,
            priority=lane.priority,
            attempt=letter.attempts,
            reason=letter.reason,
            error=brief(letter.error),
        )


class Admission:
    """Reads deliveries for one executor."""

    def __init__(self, registry: Registry, tiers: Tiers) -> None:
        self._registry = registry
        self._tiers = tiers

    def read(self, subscription: Subscription, delivery: Delivery, *, at: datetime, since: float) -> Held | Refused:
        """`at`: wall clock, for a dead letter; `since`: the loop's clock, from which the task has waited here."""
        try:
            task = decode(delivery.body, Task, delivery.content_type)
        except WireError:
            return Refused(subscription, delivery, from_delivery(delivery, at))
        lane = subscription.lane
        try:
            definition = self._registry.get(task.name)
            # The queue's tier, not the task's word for it: only so does nothing get into a lane that never fits.
            amount = self._tiers.amount(lane.tier, task.cpu, task.memory_mb)
        except (UnknownTask, NoTierFits) as error:
            reason = "unknown_task" if isinstance(error, UnknownTask) else "rejected"
            info, ran = error_info(error), task.attempt - 1
            letter = of_task(task, delivery, reason, info, attempts=ran, at=at)
            return Refused(subscription, delivery, letter, task)
        return Held(task, definition, delivery, subscription, lane, amount, since)


def may_have_run(held: Held) -> bool:
    """Whether it may have its result already. Fresh deliveries cannot, and need not ask the store."""
    return held.delivery.redelivered or held.task.attempt > 1 or held.task.hops > 0


def early_by(held: Held, now: datetime) -> float:
    """Seconds that a task still has to wait; 0 when it is close enough: by 1 s, or by a tenth of the step it has just
    waited. (A tenth of its whole delay would run a task for tomorrow two hours early.)"""
    if held.task.not_before is None:
        return 0.0
    rest_s = (held.task.not_before - now).total_seconds()
    death = held.delivery.death
    step = death.queue.removeprefix("retry.") if death is not None else ""
    return rest_s if rest_s > max(1.0, 0.1 * int(step) if step.isdecimal() else 0.0) else 0.0
