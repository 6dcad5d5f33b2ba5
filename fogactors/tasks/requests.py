"""What a running executor may be asked and told."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["GetLoad", "Pause", "Resume", "Switch", "Where"]


@dataclass(frozen=True, slots=True)
class GetLoad:
    """Ask an executor for its `Load`."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Take nothing more, hand back what waits, let finish what runs. Until `Resume`, also across restarts."""


@dataclass(frozen=True, slots=True)
class Resume:
    """The end of a pause."""


@dataclass(frozen=True, slots=True)
class Where:
    """Ask whether a task is in this executor's hands: `running`, `waiting` or `None`."""

    task_id: str


@dataclass(slots=True)
class Switch:
    """Whether an executor is paused. It outlives the executor's incarnations, as the operator's word does."""

    paused: bool = False
