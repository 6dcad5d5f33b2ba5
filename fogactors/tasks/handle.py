"""What whoever submitted a task holds of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

import msgspec
from msgspec import Raw

from fogactors.errors import TaskCancelled, TaskExpired, TaskFailed, WorkerLost
from fogactors.messages import TaskResult

if TYPE_CHECKING:
    from fogactors.tasks.client import Submitter
    from fogactors.tasks.task import TaskDef
    from fogactors.tasks.tracker import Cancellation, Whereabouts

__all__ = ["Handle", "result_value"]

R = TypeVar("R")


class Handle(Generic[R]):
    """A submitted task. `id` finds its result from anywhere, for as long as results are kept. `name`: the task's,
    where it is known."""

    def __init__(self, id: str, task: TaskDef[..., R] | None, submitter: Submitter, *, name: str = "") -> None:  # noqa: A002
        self.id = id
        self.name = name
        self._task = task
        self._submitter = submitter

    def __repr__(self) -> str:
        return f"<Handle {self.id}>"

    async def outcome(self, timeout: float) -> TaskResult:
        """How it ended, as data: whatever its state, nothing is raised for it. `timeout`: seconds.

        Raises `ResultTimeout`, `SubmitterClosed` at once when its submitter is closed.
        """
        return await self._submitter.wait(self.id, timeout)

    async def result(self, timeout: float) -> R:
        """What the task returned. `timeout`: seconds.

        Raises `TaskFailed` with the remote type and text, `WorkerLost`, `TaskExpired`, `TaskCancelled`,
        `ResultTimeout`, `SubmitterClosed` at once when its submitter is closed.
        """
        value = result_value(await self.outcome(timeout))
        return self._task.decode_result(value) if self._task is not None else msgspec.json.decode(value)

    async def cancel(self) -> Cancellation:
        """End it as `cancelled`, wherever it is; see `Submitter.cancel`."""
        return await self._submitter.cancel(self.id, name=self.name)

    async def where(self) -> Whereabouts:
        """Where it is; see `Submitter.where`."""
        return await self._submitter.where(self.id)


def result_value(result: TaskResult) -> Raw:
    """The value of a task that succeeded. Raises the error that its state stands for."""
    text = result.error.message if result.error else ""
    task = f"{result.name} {result.task_id}".lstrip()  # one that was cancelled by its id alone has no name
    match result.state:
        case "succeeded":
            return result.value if result.value is not None else Raw(b"null")
        case "worker_lost":
            raise WorkerLost(f"{task} was given up: {text}")
        case "expired":
            raise TaskExpired(f"{task} expired: {text}")
        case "cancelled":
            raise TaskCancelled(f"{task} was cancelled")
        case "failed":
            kind = result.error.type if result.error else "unknown"
            raise TaskFailed(kind, text, task_id=result.task_id)
