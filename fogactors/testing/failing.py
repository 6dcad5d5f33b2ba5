"""Attempts that fail on command: a registry and a pool of processes between the executors and the tasks, and no hook in
either."""

from __future__ import annotations

import copy
import functools
from collections import deque
from typing import Any

from fogactors.tasks.isolation import Outcome, ProcessPool
from fogactors.tasks.registry import Registry
from fogactors.tasks.task import TaskDef

__all__ = ["FailingPool", "FailingRegistry", "Failures"]


class Failures:
    """What the next attempts at each task are to fail with. A failure is used up where the function would be called, so
    a delivery that never comes to a run (handed back, cancelled, too early) costs none."""

    def __init__(self) -> None:
        self._armed: dict[str, deque[Exception | type[Exception]]] = {}

    def arm(self, name: str, error: Exception | type[Exception], times: int) -> None:
        """Raises `ValueError` for `times` below 1."""
        if times < 1:
            raise ValueError(f"times must be at least 1, not {times}")
        self._armed.setdefault(name, deque()).extend([error] * times)

    def strike(self, name: str) -> None:
        """Raise the next failure of this task, if there is one. From any thread."""
        try:
            error = self._armed[name].popleft()
        except (KeyError, IndexError):
            return
        # One error may be raised several times, and would grow a longer traceback each time.
        raise error.with_traceback(None) if isinstance(error, Exception) else error

    def unused(self) -> dict[str, int]:
        """How many no attempt has met yet, by task."""
        return {name: len(errors) for name, errors in self._armed.items() if errors}


class FailingRegistry(Registry):
    """The tasks of another registry, with functions that look for a failure first. All else of a definition (mode,
    retry policy, limits, arguments) is the task's own."""

    def __init__(self, registry: Registry, failures: Failures) -> None:
        super().__init__()
        self._tasks = registry._tasks  # shared, not copied: a module may be imported later
        self._failures = failures

    def get(self, name: str) -> TaskDef[..., Any]:
        definition = super().get(name)
        if definition.mode == "process":
            return definition  # its function is called elsewhere: the pool looks
        struck, strike, fn = copy.copy(definition), self._failures.strike, definition.fn

        @functools.wraps(fn)
        async def in_loop(*args: Any, **kwargs: Any) -> Any:
            strike(name)
            return await fn(*args, **kwargs)

        @functools.wraps(fn)
        def in_thread(*args: Any, **kwargs: Any) -> Any:
            strike(name)
            return fn(*args, **kwargs)

        struck.fn = in_loop if definition.mode == "async" else in_thread
        return struck


class FailingPool(ProcessPool):
    """Worker processes, and a look for a failure before one is asked."""

    def __init__(self, size: int, failures: Failures, *, start_s: float) -> None:
        super().__init__(size, start_s=start_s)
        self._failures = failures

    async def run(
        self, module: str, name: str, args: bytes, *, timeout: float | None, memory_mb: float | None = None
    ) -> Outcome:
        self._failures.strike(name)
        return await super().run(module, name, args, timeout=timeout, memory_mb=memory_mb)
