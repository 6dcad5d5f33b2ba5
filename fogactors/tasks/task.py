"""`@task`: a function that can be submitted.

    @task(priority="high", cpu=2.0, time_limit=30, retry=3)
    async def shrink(source: Path, width: int = 640) -> Path: ...

An `async` function runs in the executor's loop, a plain one in a thread, one with `process=True` (or `cpu=True`) in a
worker process, which is the only kind that a limit of time or memory can really kill. The decorated function is still
called as it was before, so a unit test needs no broker.
"""

from __future__ import annotations

import copy
import inspect
import math
import re
from types import FunctionType
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, NamedTuple, ParamSpec, Protocol, TypeVar, cast, overload

from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import replace

from fogactors.errors import TaskDefinitionError
from fogactors.messages import PRIORITIES
from fogactors.tasks.registry import Registry, default_registry
from fogactors.tasks.retry import MAX_DELAY_S, RetryPolicy
from fogactors.tasks.signature import Signature

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from datetime import datetime
    from typing import Self

    from msgspec import Raw

    from fogactors.messages import Priority, Task

__all__ = ["AsyncTaskDef", "Mode", "Needs", "Registry", "SyncTaskDef", "TaskDef", "default_registry", "task"]

P = ParamSpec("P")
R = TypeVar("R")

Mode = Literal["async", "thread", "process"]
"""Where a task runs: in the event loop, in a thread, in a worker process."""

_NAME: Final = re.compile(r"\S+")
_NAME_LIMIT: Final = 200
# Bytes: the name ends a routing key, `results.failed.<task>`, and AMQP allows 255 for all of it.


class Needs(NamedTuple):
    """What one attempt takes: a tier by name, or cores and MiB from which the smallest tier that fits is chosen.

    `memory_mb` is a limit for a task in a worker process, and for any other only what it is admitted by."""

    tier: str | None = None
    cpu: float | None = None
    memory_mb: int | None = None


class _Settings(Struct, frozen=True, kw_only=True):
    """What `options` may change. Times in seconds. `deadline_s`: from the submit, for the start of the first run."""

    priority: Priority = "normal"
    tier: str | None = None
    cpu: float | None = None
    memory_mb: int | None = None
    time_limit: float | None = None
    retry: RetryPolicy = RetryPolicy()
    deadline_s: float | None = None
    delay_s: float | None = None
    not_before: datetime | None = None
    idempotency_key: str | None = None

    def __post_init__(self) -> None:
        if self.priority not in PRIORITIES:
            raise TaskDefinitionError(f"priority must be one of {', '.join(PRIORITIES)}, not {self.priority!r}")
        for field in ("cpu", "memory_mb", "time_limit"):
            amount = cast("float | None", getattr(self, field))
            if amount is not None and not 0 < amount < math.inf:
                raise TaskDefinitionError(f"{field} must be a number above 0, not {amount!r}")
        if self.deadline_s is not None and not 0 < self.deadline_s <= MAX_DELAY_S:  # both are added to a time
            raise TaskDefinitionError(
                f"deadline_s must be above 0 and at most {MAX_DELAY_S:.0f} seconds, not {self.deadline_s!r}"
            )
        if self.delay_s is not None and not 0 <= self.delay_s <= MAX_DELAY_S:
            raise TaskDefinitionError(f"delay_s must be from 0 to {MAX_DELAY_S:.0f} seconds, not {self.delay_s!r}")
        if self.not_before is not None and self.not_before.tzinfo is None:
            raise TaskDefinitionError("not_before must have a time zone, as in datetime.now(UTC)")
        if self.not_before is not None and self.delay_s is not None:
            raise TaskDefinitionError("not_before and delay_s say the same thing; give one of them")


class TaskDef(Generic[P, R]):
    """A function that can be submitted. `R` is what it returns, awaited where it is `async`.

    Immutable: `options` gives a copy. `name` is what the wire carries; `module` is where a worker process finds it.
    """

    def __init__(self, fn: Callable[P, Any], name: str, mode: Mode, settings: _Settings) -> None:
        self.fn = fn
        self.name = name
        self.module = fn.__module__
        self.qualname = fn.__qualname__
        self.mode: Mode = mode
        self._settings = settings
        self._signature = Signature(name, fn)
        # As functools.update_wrapper does, so that help() and inspect.signature() show the function.
        self.__name__ = fn.__name__
        self.__doc__ = fn.__doc__
        self.__wrapped__ = fn

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R | Coroutine[Any, Any, R]:
        """Call the function here and now, as if it were no task."""
        return self.fn(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<task {self.name} ({self.mode})>"

    @property
    def needs(self) -> Needs:
        return Needs(self._settings.tier, self._settings.cpu, self._settings.memory_mb)

    @property
    def priority(self) -> Priority:
        return self._settings.priority

    @property
    def time_limit(self) -> float | None:
        """Seconds of one attempt."""
        return self._settings.time_limit

    @property
    def retry(self) -> RetryPolicy:
        return self._settings.retry

    @property
    def deadline_s(self) -> float | None:
        """Seconds after the submit; a task that has not started by then is not run."""
        return self._settings.deadline_s

    @property
    def delay_s(self) -> float | None:
        """Seconds after the submit before which it does not start, give or take one: delays are made of fixed steps,
        the shortest of which is a second."""
        return self._settings.delay_s

    @property
    def not_before(self) -> datetime | None:
        return self._settings.not_before

    @property
    def idempotency_key(self) -> str | None:
        """Whose second submit makes no second task, among the tasks of this name."""
        return self._settings.idempotency_key

    def options(
        self,
        *,
        priority: Priority | UnsetType = UNSET,
        tier: str | UnsetType | None = UNSET,
        cpu: float | UnsetType | None = UNSET,
        memory_mb: int | UnsetType | None = UNSET,
        time_limit: float | UnsetType | None = UNSET,
        retry: RetryPolicy | int | UnsetType | None = UNSET,
        deadline_s: float | UnsetType | None = UNSET,
        delay_s: float | UnsetType | None = UNSET,
        not_before: datetime | UnsetType | None = UNSET,
        idempotency_key: str | UnsetType | None = UNSET,
    ) -> Self:
        """A copy for one submit: `await client.submit(shrink.options(priority="high"), path)`.

        What is not given stays; `None` takes a setting away. Raises `TaskDefinitionError`.
        """
        given: dict[str, Any] = {
            "priority": priority,
            "tier": tier,
            "cpu": cpu,
            "memory_mb": memory_mb,
            "time_limit": time_limit,
            "retry": retry,
            "deadline_s": deadline_s,
            "delay_s": delay_s,
            "not_before": not_before,
            "idempotency_key": idempotency_key,
        }
        derived = copy.copy(self)
        derived._settings = _changed(self.name, self._settings, given)
        return derived

    def encode_args(self, *args: P.args, **kwargs: P.kwargs) -> Raw:
        """The arguments of one call as a JSON object by parameter name. Raises `TaskArgumentError`."""
        return self._signature.encode_args(args, kwargs)

    def decode_args(self, raw: Raw | bytes) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """`(args, kwargs)` for `fn`, typed by its annotations. Raises `TaskArgumentError`."""
        return self._signature.decode_args(raw)

    def bind(self, task: Task) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """`(args, kwargs)` for one attempt at a task. Raises `TaskArgumentError`."""
        return self.decode_args(task.args)

    def encode_result(self, value: object) -> Raw:
        """What the function returned, as JSON. Raises `TaskResultError` when it has no JSON form."""
        return self._signature.encode_result(value)

    def decode_result(self, raw: Raw | bytes) -> R:
        """The result, typed by the return annotation. Raises `WireError`."""
        return cast("R", self._signature.decode_result(raw))


class AsyncTaskDef(TaskDef[P, R]):
    """A task whose function is `async`."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        return self.fn(*args, **kwargs)


class SyncTaskDef(TaskDef[P, R]):
    """A task whose function blocks, so it runs in a thread or in a worker process."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.fn(*args, **kwargs)


# -- the decorator ----------------------------------------------------------------------------------------------------


# The overloads overlap because a coroutine is a value too: a checker takes the first that fits, which is what we mean.
class _Decorator(Protocol):
    @overload
    def __call__(  # pyright: ignore[reportOverlappingOverload]
        self, fn: Callable[P, Coroutine[Any, Any, R]], /
    ) -> AsyncTaskDef[P, R]: ...
    @overload
    def __call__(self, fn: Callable[P, R], /) -> SyncTaskDef[P, R]: ...


@overload
def task(  # pyright: ignore[reportOverlappingOverload]
    fn: Callable[P, Coroutine[Any, Any, R]], /
) -> AsyncTaskDef[P, R]: ...
@overload
def task(fn: Callable[P, R], /) -> SyncTaskDef[P, R]: ...
@overload
def task(
    *,
    name: str | None = None,
    priority: Priority = "normal",
    tier: str | None = None,
    cpu: float | Literal[True] | None = None,
    memory_mb: int | None = None,
    process: bool = False,
    time_limit: float | None = None,
    retry: RetryPolicy | int | None = None,
    deadline_s: float | None = None,
    registry: Registry = default_registry,
) -> _Decorator: ...
def task(
    fn: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    priority: Priority = "normal",
    tier: str | None = None,
    cpu: float | Literal[True] | None = None,
    memory_mb: int | None = None,
    process: bool = False,
    time_limit: float | None = None,
    retry: RetryPolicy | int | None = None,
    deadline_s: float | None = None,
    registry: Registry = default_registry,
) -> Any:
    """Make a function a task, bare (`@task`) or with settings (`@task(priority="high")`).

    `name`: what the wire carries; by default `<module>.<qualname>`. `cpu`: cores, `memory_mb`: MiB, both of one
    attempt; with neither and no `tier` it takes a share of the light one. `process`: run in a worker process;
    `cpu=True` means the same. `time_limit`: seconds of one attempt. `retry`: a policy, or how many runs may follow
    the first. `deadline_s`: seconds after the submit; not started by then, it is not run. Raises
    `TaskDefinitionError` for a function that cannot be a task, or a name that another function has.

    `process=True` makes `memory_mb` a limit; else it is only what admission reckons with, because a thread or a
    coroutine has no memory of its own. A worker process that takes more than it, with all that it has started and its
    interpreter and imports included, is killed while it runs; one whose task states none when it takes more than all
    that its tier has. The attempt counts as failed, with the reason `memory_limit`.
    """

    def define(fn: Callable[..., Any]) -> TaskDef[..., Any]:
        called = name or f"{getattr(fn, '__module__', '')}.{getattr(fn, '__qualname__', repr(fn))}"
        settings = {
            "priority": priority,
            "tier": tier,
            "cpu": None if isinstance(cpu, bool) else cpu,
            "memory_mb": memory_mb,
            "time_limit": time_limit,
            "retry": retry,
            "deadline_s": deadline_s,
        }
        mode = _mode(called, fn, process or cpu is True)
        kind = cast("type[TaskDef[..., Any]]", AsyncTaskDef if mode == "async" else SyncTaskDef)
        definition = kind(fn, called, mode, _changed(called, _Settings(), settings))
        registry.add(definition)
        return definition

    return define if fn is None else define(fn)


def _mode(name: str, fn: Callable[..., Any], process: bool) -> Mode:
    def refused(why: str) -> TaskDefinitionError:
        return TaskDefinitionError(f"task {name}: {why}")

    if not isinstance(fn, FunctionType):
        raise refused(f"@task takes a function, not {type(fn).__name__}; put it directly above `def`")
    if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
        raise refused("a generator cannot be a task; return the values as a list")
    if not _NAME.fullmatch(name) or len(name.encode()) > _NAME_LIMIT:
        raise refused(f"the name must have no white space and at most {_NAME_LIMIT} bytes")
    if not process:
        return "async" if inspect.iscoroutinefunction(fn) else "thread"
    if inspect.iscoroutinefunction(fn):
        raise refused("an async function cannot run in a worker process; make it a plain `def`")
    if fn.__module__ in ("__main__", "__mp_main__"):
        raise refused("a worker process cannot import from the script that was started; move it into a module")
    if not fn.__qualname__.isidentifier():
        raise refused(f"a worker process cannot import {fn.__qualname__}; define it at the top level of a module")
    return "process"


def _changed(name: str, settings: _Settings, changes: dict[str, Any]) -> _Settings:
    given = {key: value for key, value in changes.items() if value is not UNSET}
    try:
        if "retry" in given and not isinstance(given["retry"], RetryPolicy):
            given["retry"] = RetryPolicy(attempts=1 + (given["retry"] or 0))
        return replace(settings, **given)
    except TaskDefinitionError as error:
        raise TaskDefinitionError(f"task {name}: {error}") from None
