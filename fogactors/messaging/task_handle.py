"""What whoever submitted a task to a queue holds of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, overload

import msgspec

from fogactors.errors import ConfigError, WireError
from fogactors.messages import TaskResult
from fogactors.messaging.stores import NO_STORE
from fogactors.tasks.handle import result_value
from fogactors.tasks.tracker import Cancellation, Whereabouts

if TYPE_CHECKING:
    from fogactors.messaging.taskqueue import TaskQueue

__all__ = ["TaskHandle"]

R = TypeVar("R")


class TaskHandle(str):
    """A submitted task: its id, as text, that can be asked. `TaskQueue.handle(id)` makes one of any id, in any process.

    What asks raises `CoordUnavailable` while the store is away, and `ConfigError` at a queue without one, unless it
    says otherwise.
    """

    _queue: TaskQueue
    _type: str

    __slots__ = ("_queue", "_type")

    def __new__(cls, task_id: str, queue: TaskQueue, task_type: str = "") -> TaskHandle:
        self = super().__new__(cls, task_id)
        self._queue = queue
        self._type = task_type
        return self

    def __repr__(self) -> str:
        return f"<TaskHandle {self}>"

    @property
    def task_id(self) -> str:
        """The same as plain text."""
        return str.__str__(self)

    async def outcome(self, timeout: float) -> TaskResult:
        """How it ended, as data: whatever its state, nothing is raised for it. `timeout`: seconds.

        Raises `ResultTimeout`, also while the store is away, and `SubmitterClosed` at once when the queue is closed.
        """
        if not self._queue.has_store:
            raise ConfigError(f"{self._queue.name}: results are kept nowhere, because {NO_STORE}")
        return await self._queue.submitter.wait(self.task_id, timeout)

    @overload
    async def result(self, timeout: float) -> Any: ...
    @overload
    async def result(self, timeout: float, *, returns: type[R]) -> R: ...
    async def result(self, timeout: float, *, returns: Any = Any) -> Any:
        """What the handler returned, once it has. `timeout`: seconds. `returns`: as what it is decoded, and checked.

        Raises `TaskFailed` with the type and the text of what was raised there, `WorkerLost`, `TaskExpired`,
        `TaskCancelled`, `ResultTimeout`, `SubmitterClosed`, `WireError` for a result of another type.
        """
        value = result_value(await self.outcome(timeout))
        try:
            return msgspec.json.decode(value, type=returns)
        except msgspec.ValidationError as error:
            raise WireError(f"task {self._type} {self}: its result is not what was asked for: {error}") from error

    async def status(self) -> Whereabouts:
        """Where it is now: its end, if it has come to one, or else what the worker says that has it, `progress` among
        it. One that no worker has lies in its queue, in a delay, or nowhere; to know that takes a second.

        Works without a store as long as a worker has it. Raises `BusUnavailable` when the workers cannot be asked.
        """
        return await self._queue.submitter.where(self.task_id)

    async def progress(self) -> float | None:
        """What its handler has said last, from 0 to 1; 1 when it has succeeded. `None`: nothing yet, or it does not
        run. Raises as `status`."""
        status = await self.status()
        return 1.0 if status.state == "succeeded" else status.progress

    async def cancel(self) -> Cancellation:
        """End it as `cancelled`, wherever it is: when this returns that is recorded, and it is not run any more. One
        that runs is cancelled; a plain function in a thread cannot be, runs on, and the answer says so. One that has
        ended keeps its end. Idempotent.

        Raises `BusUnavailable` when the workers could not be told: cancel it again.
        """
        return await self._queue.submitter.cancel(self.task_id, name=self._type)
