"""What a delivery is: a task that this executor can run, one that may have run before, or one to refuse."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from fogactors.bus.base import Delivery
from fogactors.errors import (
    MessageTooLarge,
    TaskDefinitionError,
    TaskError,
    TaskExpired,
    UnknownTask,
    WireError,
    WorkerLost,
)
from fogactors.messages import DeadLetter, Reason, Task
from fogactors.tasks.attempt import GaveUp
from fogactors.tasks.deadletter import DIED, from_delivery, of_task
from fogactors.tasks.events import TaskRefused
from fogactors.tasks.executor_config import ExecutorConfig
from fogactors.tasks.failures import brief, error_info
from fogactors.tasks.intake import Subscription
from fogactors.tasks.limits import longest_s, too_long
from fogactors.tasks.registry import Registry
from fogactors.tasks.retry import close_enough
from fogactors.tasks.settle import DEATHS_ALLOWED, Held, crashes
from fogactors.tasks.tiers import Tiers
from fogactors.wire.codec import decode
from fogactors.wire.topology import TASK_DELIVERY_LIMIT

__all__ = ["Admission", "Refused", "early_by", "is_suspect", "may_have_run", "too_late", "waited_s"]

SUSPECT_AFTER: Final = 2
"""Processes that died with it, after which a task is run alone."""

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
    """Reads deliveries for one executor. Of its `config` it needs `max_body_bytes`, because ours never publish more but
    others may, the time limit of a task that states none, and the broker's patience."""

    def __init__(self, registry: Registry, tiers: Tiers, config: ExecutorConfig) -> None:
        self._registry = registry
        self._tiers = tiers
        self._max_body = config.max_body_bytes
        self._time_limit_s = config.time_limit_s
        self._longest_s = longest_s(config.consumer_timeout_s)

    def read(self, subscription: Subscription, delivery: Delivery, *, at: datetime, since: float) -> Held | Refused:
        """`at`: wall clock, for a dead letter; `since`: the loop's clock, from which the task has waited here."""
        try:
            task = decode(delivery.body, Task, delivery.content_type)
        except WireError:
            return Refused(subscription, delivery, from_delivery(delivery, at))
        lane = subscription.lane
        try:
            self._check(task, delivery)
            definition = self._registry.get(task.name)
            limit_s = task.time_limit or definition.time_limit or self._time_limit_s
            if (why := too_long(limit_s, self._longest_s)) is not None:
                # The broker would take it back in the midst of its run, and give it to the next, and so on.
                raise TaskDefinitionError(why)
            # The queue's tier, not the task's word for it: only so does nothing get into a lane that never fits.
            amount = self._tiers.amount(lane.tier, task.cpu, task.memory_mb)
        except (TaskError, MessageTooLarge) as error:
            info, reason = error_info(error), _REASONS.get(type(error), "rejected")
            ran = task.attempt - 1 + crashes(task, delivery)
            return Refused(subscription, delivery, of_task(task, delivery, reason, info, attempts=ran, at=at), task)
        return Held(task, definition, delivery, subscription, lane, amount, since, limit_s)

    def _check(self, task: Task, delivery: Delivery) -> None:
        size = len(delivery.body)
        if size > self._max_body + GROWTH_BYTES:
            # It could be run, but neither tried again nor kept as a dead letter.
            text = f"the body has {size} bytes, more than {self._max_body}; submit a reference to the data instead"
            raise MessageTooLarge(text)
        if task.crashes > DEATHS_ALLOWED:
            # The counts begin anew at each republish, so here the envelope's part of them is held.
            raise WorkerLost(DIED)


_REASONS: Final[dict[type[Exception], Reason]] = {UnknownTask: "unknown_task", WorkerLost: "worker_lost"}


def is_suspect(held: Held) -> bool:
    """Whether it may be what kills its executors, and with each of them charges a delivery to all that they held. A
    worker process dies alone, so what runs in one is no danger to others. One that came back so often may be what costs
    them their connections, and the broker is half way to giving it up with all that lay beside it."""
    often = crashes(held.task, held.delivery) >= TASK_DELIVERY_LIMIT // 2
    return held.definition.mode != "process" and (held.deaths >= SUSPECT_AFTER or often)


def may_have_run(held: Held) -> bool:
    """Whether it may have its result already. Fresh deliveries cannot, and need not ask the store."""
    return held.delivery.redelivered or held.task.attempt > 1 or held.task.hops > 0


def early_by(held: Held, now: datetime) -> float:
    """Seconds that a task still has to wait; 0 when it is close enough."""
    if held.task.not_before is None:
        return 0.0
    rest_s = (held.task.not_before - now).total_seconds()
    return 0.0 if close_enough(rest_s) else rest_s


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
