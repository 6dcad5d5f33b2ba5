"""What happens to tasks: one frozen value per fact, beside the actors' own events. `at` is wall-clock UTC."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from fogactors.messages import Priority, Reason, TaskState

__all__ = [
    "ConsumerStalled",
    "DeadLetterReplayed",
    "DuplicateResult",
    "QueueUnavailable",
    "ResultUnrecorded",
    "TaskDeadLettered",
    "TaskEnded",
    "TaskEvent",
    "TaskHandedBack",
    "TaskIsolated",
    "TaskRefused",
    "TaskRetried",
    "TaskStarted",
    "ThreadAbandoned",
    "WorkerCrashed",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskEvent:
    """`worker`: the actor that tells it. `lane_tier` is the queue's tier, which may be smaller than the executor's."""

    at: datetime
    worker: str
    task_id: str
    name: str
    lane_tier: str
    priority: Priority
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskStarted(TaskEvent):
    """`wait_s`: from its creation, or from the moment before which it must not start, to now."""

    wait_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskEnded(TaskEvent):
    """It has reached its recorded state. `run_s`: of the last attempt."""

    state: TaskState
    run_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRetried(TaskEvent):
    """An attempt failed and another will follow in `delay_s`."""

    error: str
    delay_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskHandedBack(TaskEvent):
    """It went back to its queue without an attempt being counted."""

    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DuplicateResult(TaskEvent):
    """It ran, or came, once more after it had been recorded, or after another copy of it had come as far; the record
    stays."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadAbandoned(TaskEvent):
    """It ran over its time limit in a thread, which cannot be killed; the thread keeps its share until it ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerCrashed(TaskEvent):
    """The worker process died in the middle of it; the broker counts the delivery."""

    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskIsolated(TaskEvent):
    """`crashes` workers have died with it in their hands, or it has come back very often, so it is run alone: all else
    that the executor has waiting goes back first, and nothing is taken until it has ended."""

    crashes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRefused(TaskEvent):
    """It cannot be run here at all: unknown, wrong arguments, too large."""

    reason: Reason
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerStalled:
    """The broker delivers nothing to a consumer that has room, while `ready` messages wait; another takes its place.
    `silent_s`: since its last delivery, or since its queue was last seen to be empty."""

    at: datetime
    worker: str
    queue: str
    ready: int
    silent_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueUnavailable:
    """An executor could not subscribe to one of its queues; told once, and tried again until it can."""

    at: datetime
    worker: str
    lane_tier: str
    priority: Priority
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultUnrecorded:
    """The coordination store is away, so results go to `results.pending`; told when it begins and when it is over.
    `unrecorded`: how many results of this worker have gone there so far."""

    at: datetime
    worker: str
    away: bool
    unrecorded: int = 0
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskDeadLettered:
    """Something was given up on. `task_id` and `name` are empty for bytes that could not be read."""

    at: datetime
    worker: str
    reason: Reason
    task_id: str = ""
    name: str = ""
    origin: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterReplayed:
    """A policy had a task published once more, as this `generation`; it comes in `delay_s`."""

    at: datetime
    worker: str
    task_id: str
    name: str
    reason: str
    generation: int
    delay_s: float
