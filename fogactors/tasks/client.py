"""How work gets in and how its result comes back: `Submitter` and `Handle`."""

from __future__ import annotations

import itertools
import secrets
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Final, Generic, ParamSpec, TypeVar

import anyio
import msgspec
from anyio.abc import TaskGroup
from msgspec import Raw

from fogactors.bus.base import Bus, Message
from fogactors.coord.base import Coord, done_channel
from fogactors.errors import (
    CoordError,
    ResultTimeout,
    TaskCancelled,
    TaskExpired,
    TaskFailed,
    WireError,
    WorkerLost,
)
from fogactors.messages import Task, TaskResult
from fogactors.tasks.retry import step_for
from fogactors.tasks.task import TaskDef
from fogactors.tasks.tiers import Tiers
from fogactors.wire.codec import decode, encode
from fogactors.wire.topology import RETRY_STEPS_S, TASKS, retry_exchange, task_key, task_queue

__all__ = ["Handle", "Submitter", "result_value"]

P = ParamSpec("P")
R = TypeVar("R")

POLL_S: Final = 1.0
"""How often a waiting handle looks by itself, in case its notice was lost."""


class Handle(Generic[R]):
    """A submitted task. `id` finds its result from anywhere, for as long as results are kept."""

    def __init__(self, id: str, task: TaskDef[..., R] | None, submitter: Submitter) -> None:  # noqa: A002
        self.id = id
        self._task = task
        self._submitter = submitter

    def __repr__(self) -> str:
        return f"<Handle {self.id}>"

    async def outcome(self, timeout: float) -> TaskResult:
        """How it ended, as data: whatever its state, nothing is raised for it. `timeout`: seconds.

        Raises `ResultTimeout`.
        """
        return await self._submitter.wait(self.id, timeout)

    async def result(self, timeout: float) -> R:
        """What the task returned. `timeout`: seconds.

        Raises `TaskFailed` with the remote type and text, `WorkerLost`, `TaskExpired`, `TaskCancelled`,
        `ResultTimeout`.
        """
        value = result_value(await self.outcome(timeout))
        return self._task.decode_result(value) if self._task is not None else msgspec.json.decode(value)


class Submitter:
    """Submits tasks over a bus and waits for their results: `async with Submitter(bus, coord, tiers) as submitter`.

    Its id is the first part of every task id that it gives, and whoever records a result knows from it whom to notify.
    """

    def __init__(self, bus: Bus, coord: Coord, tiers: Tiers, *, publish_timeout_s: float = 10.0) -> None:
        self.id = secrets.token_hex(8)
        self._bus = bus
        self._coord = coord
        self._tiers = tiers
        self._publish_timeout_s = publish_timeout_s
        self._number = itertools.count(1)
        self._waiting: dict[str, set[anyio.Event]] = {}
        self._tasks: TaskGroup

    async def __aenter__(self) -> Submitter:
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        self._tasks.start_soon(self._listen, name=f"results of {self.id}")
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> bool | None:
        self._tasks.cancel_scope.cancel()
        if exc is not None and not isinstance(exc, anyio.get_cancelled_exc_class()):
            await self._tasks.__aexit__(None, None, None)  # the body's own error leaves unwrapped
            return False
        return await self._tasks.__aexit__(exc_type, exc, tb)

    async def submit(self, task: TaskDef[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Handle[R]:
        """Publish a call of the task; returns when the broker has it. For one submit's own priority, tier or
        delay, submit `task.options(...)`.

        Raises `TaskArgumentError`, `NoTierFits`, and what `Bus.publish` raises (`BusUnavailable`, `QueueFull`,
        `Unroutable`, `MessageTooLarge`), whose `unsent` is the message: publish it again and it keeps its id.
        """
        raw = task.encode_args(*args, **kwargs)
        needs, now = task.needs, datetime.now(UTC)
        tier = needs.tier or self._tiers.smallest_for(needs.cpu, needs.memory_mb).name
        self._tiers.amount(tier, needs.cpu, needs.memory_mb)
        not_before = task.not_before or (now + timedelta(seconds=task.delay_s) if task.delay_s else None)
        message = Task(
            id=f"{self.id}-{next(self._number):x}",
            name=task.name,
            args=raw,
            priority=task.priority,
            tier=tier,
            cpu=needs.cpu,
            memory_mb=needs.memory_mb,
            max_attempts=task.retry.attempts,
            created=now,
            not_before=not_before,
            deadline=now + timedelta(seconds=task.deadline_s) if task.deadline_s else None,
            time_limit=task.time_limit,
        )
        message.origin = task_queue(message.priority, tier, self._tiers.lightest.name)
        message.correlation_id = message.id
        await self._publish(message)
        return Handle(message.id, task, self)

    async def submit_raw(self, name: str, args: Raw, **fields: Any) -> Handle[Any]:
        """The same for a task that is not imported here: its name and its arguments as JSON. `fields` are those of
        `Task`; what the task's definition says of tier, priority and retries is not known here, so say it. Raises what
        `submit` raises, but nothing about arguments that only the task's module knows."""
        tier = fields.pop("tier", None) or self._tiers.smallest_for(fields.get("cpu"), fields.get("memory_mb")).name
        self._tiers.amount(tier, fields.get("cpu"), fields.get("memory_mb"))
        id_ = f"{self.id}-{next(self._number):x}"
        message = Task(id=id_, name=name, args=args, tier=tier, created=datetime.now(UTC), correlation_id=id_, **fields)
        message.origin = task_queue(message.priority, tier, self._tiers.lightest.name)
        await self._publish(message)
        return Handle(id_, None, self)

    async def resubmit(self, unsent: Message) -> Handle[Any]:
        """Publish what a `BusError` carries as `unsent` once more. It keeps its id, so it does no harm if it did
        arrive the first time: it may run twice, and is recorded once. Raises what `submit` raises."""
        task = decode(unsent.body, Task, unsent.content_type)
        await self._publish(task)
        return Handle(task.id, None, self)

    def handle(self, task_id: str) -> Handle[Any]:
        """A handle on a task that was submitted elsewhere or earlier."""
        return Handle(task_id, None, self)

    async def wait(self, task_id: str, timeout: float) -> TaskResult:
        """Raises `ResultTimeout`."""
        event = anyio.Event()
        self._waiting.setdefault(task_id, set()).add(event)
        away = ""
        try:
            with anyio.move_on_after(timeout):
                while True:
                    try:
                        result = await self._coord.result(task_id)
                        away = ""
                    except CoordError as error:
                        result, away = None, f"; the coordination store is away: {error}"
                    except WireError as error:
                        result, away = None, f"; its record cannot be read: {error}"
                    if result is not None:
                        return result
                    with anyio.move_on_after(POLL_S):
                        await event.wait()
                    if event.is_set():  # a notice may come before a replica has the record
                        event = self._again(task_id, event)
            raise ResultTimeout(f"no result of {task_id} within {timeout:g} s; it may still run{away}")
        finally:
            waiting = self._waiting.get(task_id, set())
            waiting.discard(event)
            if not waiting:
                self._waiting.pop(task_id, None)

    def _again(self, task_id: str, event: anyio.Event) -> anyio.Event:
        fresh = anyio.Event()
        waiting = self._waiting.setdefault(task_id, set())
        waiting.discard(event)
        waiting.add(fresh)
        return fresh

    async def _publish(self, task: Task) -> None:
        message = Message(encode(task), type="task", correlation_id=task.correlation_id)
        light = self._tiers.lightest.name
        rest_s = 0.0 if task.not_before is None else (task.not_before - task.created).total_seconds()
        if rest_s >= RETRY_STEPS_S[0]:
            exchange = retry_exchange(step_for(rest_s, RETRY_STEPS_S))
            key = task_queue(task.priority, task.tier, light)
        else:
            exchange, key = TASKS, task_key(task.priority, task.tier, light)
        await self._bus.publish(exchange, key, message, mandatory=True, timeout=self._publish_timeout_s)

    async def _listen(self) -> None:
        while True:
            try:
                async with self._coord.listen(done_channel(f"{self.id}-")) as notices:
                    async for task_id in notices:
                        for event in self._waiting.get(task_id, ()):
                            event.set()
            except CoordError:
                pass  # away, or not allowed to listen: the handles poll
            await anyio.sleep(POLL_S)


def result_value(result: TaskResult) -> Raw:
    """The value of a task that succeeded. Raises the error that its state stands for."""
    text = result.error.message if result.error else ""
    match result.state:
        case "succeeded":
            return result.value if result.value is not None else Raw(b"null")
        case "worker_lost":
            raise WorkerLost(f"{result.name} {result.task_id} was given up: {text}")
        case "expired":
            raise TaskExpired(f"{result.name} {result.task_id} expired: {text}")
        case "cancelled":
            raise TaskCancelled(f"{result.name} {result.task_id} was cancelled")
        case "failed":
            kind = result.error.type if result.error else "unknown"
            raise TaskFailed(kind, text, task_id=result.task_id)
