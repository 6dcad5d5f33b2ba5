"""What a running executor may be asked and told."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Cancel", "GetLoad", "Pause", "Resume", "Switch", "Where"]


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
class Where:
    """Ask whether a task is in this executor's hands: `running`, `waiting` or `None`."""

    task_id: str


@dataclass(frozen=True, slots=True)
class Cancel:
    """End a task that is in this executor's hands, as `cancelled`; the answer is what `Where` would say. A thread
    cannot be stopped: it is let go, and may still run."""

    task_id: str


@dataclass(slots=True)
class Switch:
    """Whether an executor is paused. It outlives the executor's incarnations, as the operator's word does."""

    paused: bool = False
