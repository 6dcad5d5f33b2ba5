"""What a running executor may be asked and told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from msgspec import Struct

from fogactors.messages import UTC
from fogactors.tasks.task import Mode

__all__ = ["Cancel", "GetLoad", "Pause", "Refresh", "Resume", "Switch", "TaskWhere", "Where"]


class TaskWhere(Struct, kw_only=True, frozen=True):
    """A task in an executor's hands. `since`: when this attempt was started, or when the task came here to wait.
    `mode`: what kind of task it is, because a thread cannot be stopped. `progress`, `note`: what its handler has said
    last, from 0 to 1 and in words."""

    state: Literal["running", "waiting"]
    name: str
    attempt: int
    since: UTC
    mode: Mode
    worker: str
    progress: float | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class GetLoad:
    """Ask an executor for its `Load`."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Take nothing more, hand back what waits, let finish what runs. Until `Resume`, or until the process ends: a lost
    connection or a crash of the executor does not end it."""


@dataclass(frozen=True, slots=True)
class Resume:
    """The end of a pause."""


@dataclass(frozen=True, slots=True)
class Refresh:
    """Ask the store again what was cancelled."""


@dataclass(frozen=True, slots=True)
class Where:
    """Ask whether a task is in this executor's hands: its `TaskWhere`, or `None`."""

    task_id: str


@dataclass(frozen=True, slots=True)
class Cancel:
    """End a task as `cancelled` if it is in this executor's hands, and do not run it if it comes later; the answer is
    what `Where` would say. A thread cannot be stopped: it is let go, and may still run."""

    task_id: str


@dataclass(slots=True)
class Switch:
    """Whether an executor is paused. It outlives the executor's incarnations, as the operator's word does."""

    paused: bool = False
