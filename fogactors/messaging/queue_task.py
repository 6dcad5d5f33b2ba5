"""A task as its handler sees it, and the handlers of a queue by the types of tasks."""

from __future__ import annotations

import inspect
import math
import typing
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Any, Final, Generic, TypeVar, cast
from weakref import WeakValueDictionary

import msgspec
from msgspec import Raw

from fogactors.errors import ConfigError, TaskArgumentError, TaskResultError, UnknownTask
from fogactors.messages import Task
from fogactors.messaging.context import correlated
from fogactors.messaging.handlers import BAD_VALUE, to_json
from fogactors.tasks.registry import Registry
from fogactors.tasks.retry import RetryPolicy
from fogactors.tasks.task import Mode, TaskDef

__all__ = ["Handlers", "QueueTask", "check_task_type"]

T = TypeVar("T")

TYPE_LIMIT: Final = 200
"""Bytes: it ends a routing key."""
NOTE_LIMIT: Final = 500


class QueueTask(Generic[T]):
    """A task in its handler's hands. `task_id`: as `submit` gave it. `data`: what was submitted, as the handler's
    annotation says (`task: QueueTask[Paper]`). `priority`: 0 to 10. `retry_count`: how often it has failed before;
    `max_retries`: how often it may. `submitted`: when, in UTC. `correlation_id`: the conversation that it is part of.
    """

    __slots__ = (
        "__weakref__",
        "correlation_id",
        "data",
        "max_retries",
        "note",
        "priority",
        "progress_made",
        "queue",
        "retry_count",
        "submitted",
        "task_id",
        "task_type",
    )

    def __init__(
        self,
        task_id: str,
        task_type: str,
        data: T,
        *,
        queue: str = "",
        priority: int = 5,
        retry_count: int = 0,
        max_retries: int = 0,
        submitted: datetime,
        correlation_id: str | None = None,
    ) -> None:
        self.task_id = task_id
        self.task_type = task_type
        self.data = data
        self.queue = queue
        self.priority = priority
        self.retry_count = retry_count
        self.max_retries = max_retries
        self.submitted = submitted
        self.correlation_id = correlation_id
        self.progress_made: float | None = None
        self.note = ""

    def __repr__(self) -> str:
        return f"<QueueTask {self.task_type} {self.task_id}>"

    def progress(self, made: float, note: str = "") -> None:
        """Say how far it is, from 0 to 1, and in words, for whoever asks (`handle.status()`). From any thread, as often
        as one likes: it is only kept here. Raises `ValueError` for another number."""
        if not 0 <= made <= 1:
            raise ValueError(f"progress is a number from 0 to 1, not {made!r}")
        self.progress_made, self.note = float(made), note[:NOTE_LIMIT]


def check_task_type(task_type: str) -> str:
    """The type itself. Raises `ConfigError`."""
    if not task_type or len(task_type.encode()) > TYPE_LIMIT or any(each.isspace() for each in task_type):
        raise ConfigError(f"the type of a task is a word of at most {TYPE_LIMIT} bytes, not {task_type!r:.60}")
    return task_type


class _Handled(TaskDef[[QueueTask[Any]], Any]):
    """A handler, as an executor sees it: a function of one task."""

    def __init__(
        self,
        task_type: str,
        fn: Callable[[Any], Any],
        data_type: Any,
        retry: RetryPolicy,
        time_limit: float | None,
        queue: str,
        running: WeakValueDictionary[str, QueueTask[Any]],
    ) -> None:
        # Not the parent's: that is for a function whose parameters are the arguments, and that has a module to be
        # imported from.
        called = _called(fn)
        self.name = task_type
        self.module = getattr(called, "__module__", "")
        self.qualname = getattr(called, "__qualname__", repr(fn))
        self.is_async = inspect.iscoroutinefunction(called)
        self.mode: Mode = "async" if self.is_async else "thread"
        self.fn = self._run_async if self.is_async else self._run
        self._handler = fn
        self._retry = retry
        self._time_limit = time_limit
        self._queue = queue
        self._running = running
        try:
            inspect.signature(fn).bind(None)
            wanted = _annotated(fn, called) if data_type is None else data_type
            self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(wanted)
        except (TypeError, ValueError, NameError) as error:
            raise ConfigError(f"{self.qualname} cannot handle tasks: {error}") from error

    @property
    def retry(self) -> RetryPolicy:
        return self._retry

    @property
    def time_limit(self) -> float | None:
        return self._time_limit

    def bind(self, task: Task) -> tuple[tuple[Any, ...], dict[str, Any]]:
        try:
            data = self._decoder.decode(task.args)
        except BAD_VALUE as error:
            raise TaskArgumentError(f"task {task.name}: its data does not fit {self.qualname}: {error}") from error
        mine = QueueTask(
            task.id,
            task.name,
            data,
            queue=self._queue,
            priority=5 if task.level is None else task.level,
            retry_count=task.attempt - 1,
            max_retries=max(1, task.max_attempts) - 1,
            submitted=task.created,
            correlation_id=task.correlation_id,
        )
        self._running[task.id] = mine
        return (mine,), {}

    def encode_result(self, value: object) -> Raw:
        try:
            return Raw(to_json(value))
        except BAD_VALUE as error:
            raise TaskResultError(f"task {self.name}: its result has no JSON form: {error}") from error

    async def _run_async(self, task: QueueTask[Any]) -> Any:
        with correlated(task.correlation_id or task.task_id, task.task_id):
            return await self._handler(task)

    def _run(self, task: QueueTask[Any]) -> Any:
        with correlated(task.correlation_id or task.task_id, task.task_id):
            returned = self._handler(task)
        if inspect.iscoroutine(returned):  # a lambda around an async function
            returned.close()
            raise TypeError(f"{self.qualname} is no async function, and returned a coroutine; make it `async def`")
        return returned


class Handlers(Registry):
    """Those of one queue. `longest_s`: the time limit that a handler may have at most."""

    def __init__(self, queue: str, longest_s: float) -> None:
        super().__init__()
        self._queue = queue
        self._longest_s = longest_s
        self.running: WeakValueDictionary[str, QueueTask[Any]] = WeakValueDictionary()
        """What runs, by its id: for who asks how far it is."""

    def register(
        self,
        task_type: str,
        fn: Callable[[QueueTask[Any]], Any],
        *,
        data_type: Any,
        retry: RetryPolicy,
        time_limit: float | None,
    ) -> None:
        """Raises `ConfigError`."""
        check_task_type(task_type)
        if task_type in self._tasks:
            raise ConfigError(f"{self._queue} has a handler of {task_type} already; a type has one")
        if time_limit is not None and not (0 < time_limit < math.inf and time_limit <= self._longest_s):
            raise ConfigError(
                f"{self._queue}: the time limit of {task_type} must be above 0 and at most {self._longest_s:g} s, "
                f"because the broker takes back what is held for longer, not {time_limit}"
            )
        self._tasks[task_type] = _Handled(task_type, fn, data_type, retry, time_limit, self._queue, self.running)

    def _unknown(self, name: str) -> UnknownTask:
        known = ", ".join(self.names()) or "none"
        return UnknownTask(
            f"the worker of {self._queue} has no handler of {name!r} (it has: {known}); every worker of a queue needs "
            "all of its types"
        )


def _called(fn: Any) -> Any:
    while isinstance(fn, partial):
        fn = cast("partial[Any]", fn).func
    return fn if inspect.isroutine(fn) else getattr(fn, "__call__", fn)  # noqa: B004 - an object that is callable


def _annotated(fn: Any, called: Any) -> Any:
    """`X` of a parameter that is a `QueueTask[X]`."""
    parameters = list(inspect.signature(fn).parameters)
    hint = typing.get_type_hints(called).get(parameters[0]) if parameters else None
    arguments = typing.get_args(hint) if typing.get_origin(hint) is QueueTask else ()
    return arguments[0] if arguments and not isinstance(arguments[0], TypeVar) else Any
