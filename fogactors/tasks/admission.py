"""What a delivery is: a task that this executor can run, one that may have run before, or one to refuse."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from fogactors.bus.base import Delivery
from fogactors.errors import MessageTooLarge, NoTierFits, TaskExpired, UnknownTask, WireError
from fogactors.messages import DeadLetter, Task
from fogactors.tasks.attempt import GaveUp
from fogactors.tasks.deadletter import from_delivery, of_task
from fogactors.tasks.events import TaskRefused
from fogactors.tasks.failures import brief, error_info
from fogactors.tasks.intake import Subscription
from fogactors.tasks.registry import Registry
from fogactors.tasks.retry import close_enough
from fogactors.tasks.settle import Held
from fogactors.tasks.tiers import Tiers
from fogactors.wire.codec import decode

__all__ = ["Admission", "Refused", "early_by", "may_have_run", "too_late", "waited_s"]

GROWTH_BYTES: Final = 1024
"""What republishes may have added to a body that was within the limit: counts, a time and an origin."""


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
    """Reads deliveries for one executor. `max_body`: bytes; ours never publish more, but others may."""

    def __init__(self, registry: Registry, tiers: Tiers, max_body: int) -> None:
        self._registry = registry
        self._tiers = tiers
        self._max_body = max_body

    def read(self, subscription: Subscription, delivery: Delivery, *, at: datetime, since: float) -> Held | Refused:
        """`at`: wall clock, for a dead letter; `since`: the loop's clock, from which the task has waited here."""
        try:
            task = decode(delivery.body, Task, delivery.content_type)
        except WireError:
            return Refused(subscription, delivery, from_delivery(delivery, at))
        lane = subscription.lane
        try:
            size = len(delivery.body)
            if size > self._max_body + GROWTH_BYTES:
                # It could be run, but neither tried again nor kept as a dead letter.
                text = f"the body has {size} bytes, more than {self._max_body}; submit a reference to the data instead"
                raise MessageTooLarge(text)
            definition = self._registry.get(task.name)
            # The queue's tier, not the task's word for it: only so does nothing get into a lane that never fits.
            amount = self._tiers.amount(lane.tier, task.cpu, task.memory_mb)
        except (UnknownTask, NoTierFits, MessageTooLarge) as error:
            reason = "unknown_task" if isinstance(error, UnknownTask) else "rejected"
            info, ran = error_info(error), task.attempt - 1
            letter = of_task(task, delivery, reason, info, attempts=ran, at=at)
            return Refused(subscription, delivery, letter, task)
        return Held(task, definition, delivery, subscription, lane, amount, since)


def may_have_run(held: Held) -> bool:
    """Whether it may have its result already. Fresh deliveries cannot, and need not ask the store."""
    return held.delivery.redelivered or held.task.attempt > 1 or held.task.hops > 0


def early_by(held: Held, now: datetime) -> float:
    """Seconds that a task still has to wait; 0 when it is close enough."""
    if held.task.not_before is None:
        return 0.0
    rest_s = (held.task.not_before - now).total_seconds()
    death = held.delivery.death
    step = death.queue.removeprefix("retry.") if death is not None else ""
    return 0.0 if close_enough(rest_s, int(step) if step.isdecimal() else 0) else rest_s


def too_late(task: Task, now: datetime) -> GaveUp | None:
    """The end of a task whose deadline has passed before its first start."""
    if task.deadline is None or now <= task.deadline or task.attempt > 1:
        return None
    return GaveUp(
        "expired", error_info(TaskExpired(f"its deadline was {task.deadline.isoformat()}, and it had not started"))
    )


def waited_s(task: Task, now: datetime) -> float:
    """Seconds from its creation, or from the moment before which it must not start."""
    ready = task.created if task.not_before is None else max(task.created, task.not_before)
    return max(0.0, (now - ready).total_seconds())
