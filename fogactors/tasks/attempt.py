"""One attempt at one task: in the loop, in a thread or in a worker process, within its time limit.

Whatever the task does, raising, hanging, exiting, leaves here as an `Outcome`. Only our own cancellation passes
through.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import anyio
import anyio.lowlevel
import anyio.to_thread
from msgspec import Raw
from msgspec.structs import replace

from fogactors.errors import ChildCrashed, MemoryLimitExceeded, StartFailed, TaskArgumentError, TimeLimitExceeded
from fogactors.messages import ErrorInfo, Reason, Task
from fogactors.tasks.failures import error_info
from fogactors.tasks.isolation import Done, Failed, ProcessPool, Skipped
from fogactors.tasks.retry import Retry, RetryPolicy, Skip, next_delay
from fogactors.tasks.task import TaskDef
from fogactors.tasks.thread import Thread

__all__ = ["Attempt", "Cancelled", "Crashed", "GaveUp", "NotRun", "Outcome", "Succeeded", "TryAgain"]

_NULL: Final = Raw(b"null")


@dataclass(frozen=True, slots=True)
class Succeeded:
    value: Raw


@dataclass(frozen=True, slots=True)
class TryAgain:
    """It failed, and its policy wants another attempt in `delay_s`."""

    error: ErrorInfo
    delay_s: float


@dataclass(frozen=True, slots=True)
class GaveUp:
    """It failed for good."""

    reason: Reason
    error: ErrorInfo


@dataclass(frozen=True, slots=True)
class Crashed:
    """Its worker process died. Not the task's word but the broker's decides how often that may happen."""

    error: str


@dataclass(frozen=True, slots=True)
class NotRun:
    """It has not run, or not to its end, and that is not its fault: it goes back uncounted."""

    why: str


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Somebody asked for its end while it was here."""


Outcome = Cancelled | Succeeded | TryAgain | GaveUp | Crashed | NotRun


class Attempt:
    """Runs tasks for one executor.

    `inline_bytes`: the largest result that is kept. `time_limit_s`: for tasks that state none. A thread cannot be
    killed: after its time limit it is abandoned, and `run` calls `on_abandoned()`, and the function that this
    returns when the thread has ended after all.
    """

    def __init__(self, pool: ProcessPool, *, inline_bytes: int, time_limit_s: float, rng: random.Random) -> None:
        self._pool = pool
        self._inline_bytes = inline_bytes
        self._time_limit_s = time_limit_s
        self._rng = rng
        # Admission is by CPU and memory; a limit of the thread pool's own would be a second, hidden one.
        self._threads = anyio.CapacityLimiter(math.inf)

    async def run(
        self,
        task: Task,
        definition: TaskDef[..., Any],
        on_abandoned: Callable[[], Callable[[], None]],
        *,
        memory_mb: int | None = None,
    ) -> Outcome:
        limit_s = task.time_limit or definition.time_limit or self._time_limit_s
        try:
            if definition.mode == "process":
                value = await self._in_process(task, definition, limit_s, memory_mb)
            else:
                args, kwargs = definition.bind(task)
                if definition.mode == "thread":
                    returned = await self._in_thread(definition.fn, args, kwargs, limit_s, on_abandoned)
                else:
                    returned = await self._in_loop(definition.fn, args, kwargs, limit_s)
                value = definition.encode_result(returned)
        except Skip:
            value = _NULL
        except ChildCrashed as error:
            return Crashed(str(error))
        except StartFailed as error:  # it has not run: charging it would give up a whole queue where none starts
            return NotRun(str(error))
        except TaskArgumentError as error:
            return GaveUp("bad_arguments", error_info(error))
        except _Remote as remote:
            failed = remote.failed
            return self._failed(task, definition.retry, failed.error, failed.retryable, failed.retry_after_s)
        except (TimeLimitExceeded, MemoryLimitExceeded) as error:
            reason: Reason = "time_limit" if isinstance(error, TimeLimitExceeded) else "memory_limit"
            retryable = definition.retry.retries(error)
            return self._failed(task, definition.retry, error_info(error), retryable, None, reason=reason)
        except Exception as caught:
            error = caught.error if isinstance(caught, _Raised) else caught
            asked_s = error.delay if isinstance(error, Retry) else None
            return self._failed(task, definition.retry, error_info(error), definition.retry.retries(error), asked_s)
        if len(value) > self._inline_bytes:
            text = f"the result has {len(value)} bytes, more than {self._inline_bytes}; store it and return where"
            return GaveUp("failed", ErrorInfo(type="ResultTooLarge", message=text))
        return Succeeded(value)

    def _failed(
        self,
        task: Task,
        policy: RetryPolicy,
        error: ErrorInfo,
        retryable: bool,
        asked_s: float | None,
        reason: Reason = "failed",
    ) -> Outcome:
        # How many attempts there are is the submitter's word; how to space them, and for what, is the definition's.
        allowed = replace(policy, attempts=max(1, task.max_attempts))
        delay_s = next_delay(allowed, task.attempt, self._rng, retryable=retryable, asked_s=asked_s)
        return GaveUp(reason, error) if delay_s is None else TryAgain(error, delay_s)

    async def _in_loop(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], limit_s: float
    ) -> Any:
        with anyio.move_on_after(limit_s) as scope:
            try:
                returned = await fn(*args, **kwargs)
                this = asyncio.current_task()
                if this is not None and this.cancelling():
                    # What the task has left pending for itself arrives here, and not in the midst of our books.
                    await anyio.lowlevel.cancel_shielded_checkpoint()
                return returned
            except anyio.get_cancelled_exc_class() as error:
                if anyio.current_effective_deadline() == -math.inf:
                    raise  # ours: the limit, a drain, a kill
                raise _Raised(error) from error  # the task, or a library in it, cancelled itself
            except Exception:
                raise
            except BaseException as error:  # sys.exit() in a task must end the task, not the executor
                raise _Raised(error) from error
        if scope.cancelled_caught:
            raise TimeLimitExceeded(f"it ran longer than its time limit of {limit_s:g} s")
        return None

    async def _in_thread(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        limit_s: float,
        on_abandoned: Callable[[], Callable[[], None]],
    ) -> Any:
        thread = Thread(fn, args, kwargs)
        try:
            with anyio.fail_after(limit_s):
                await anyio.to_thread.run_sync(thread.run, abandon_on_cancel=True, limiter=self._threads)
        except TimeoutError:
            text = f"it ran longer than its time limit of {limit_s:g} s"
            if thread.abandon(on_abandoned):
                text += (
                    "; it is a thread and cannot be stopped, so it may still run (with process=True it can be killed)"
                )
            raise TimeLimitExceeded(text) from None
        except BaseException:
            thread.abandon(on_abandoned)
            raise
        try:
            return thread.result()
        except Exception:
            raise
        except BaseException as error:  # sys.exit() in a task must end the task, not the executor
            raise _Raised(error) from error

    async def _in_process(
        self, task: Task, definition: TaskDef[..., Any], limit_s: float, memory_mb: float | None
    ) -> Raw:
        outcome = await self._pool.run(
            definition.module, definition.name, bytes(task.args), timeout=limit_s, memory_mb=memory_mb
        )
        match outcome:
            case Done():
                return Raw(outcome.value)
            case Skipped():
                return _NULL
            case Failed():
                if outcome.error.type == TaskArgumentError.__name__:
                    raise TaskArgumentError(outcome.error.message)
                raise _Remote(outcome)


class _Raised(Exception):
    """A task raised something that is no `Exception`."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(str(error))
        self.error = error


class _Remote(Exception):
    """A failure in a worker process, as data."""

    def __init__(self, failed: Failed) -> None:
        super().__init__(failed.error.message)
        self.failed = failed
