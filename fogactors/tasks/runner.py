"""From a task in hand to the outcome of its attempt."""

from __future__ import annotations

from collections.abc import Callable

import anyio

from fogactors.tasks.admission import too_late, waited_s
from fogactors.tasks.attempt import Attempt, Cancelled, NotRun, Outcome, Succeeded
from fogactors.tasks.events import TaskStarted, ThreadAbandoned
from fogactors.tasks.executor_config import ExecutorConfig
from fogactors.tasks.settle import Held, facts
from fogactors.tasks.tiers import Tiers

__all__ = ["Runner"]


class Runner:
    """For one executor. `emit` takes events."""

    def __init__(self, config: ExecutorConfig, tiers: Tiers, attempt: Attempt, emit: Callable[[object], None]) -> None:
        self._config = config
        self._attempt = attempt
        self._emit = emit
        # What bounds a task that states no need of its own: it shares the tier, so it may not take more than all of it.
        self._memory_mb = tiers.get(config.tier).memory_mb

    async def run(
        self, held: Held, scope: anyio.CancelScope, on_abandoned: Callable[[], Callable[[], None]]
    ) -> Outcome:
        """One attempt, which whoever cancels `scope` ends. `on_abandoned` is called when a thread goes on without us,
        and what it returns when that has ended."""

        def abandoned() -> Callable[[], None]:
            self._emit(ThreadAbandoned(**facts(held, self._config.worker, self._config.now())))
            return on_abandoned()

        outcome: Outcome | None = None
        with scope:
            outcome = await self._execute(held, abandoned)
        # What was cancelled is not to blame for how it ended.
        if held.cancelled and not isinstance(outcome, Succeeded):
            return Cancelled()
        if outcome is None or (scope.cancel_called and not isinstance(outcome, Succeeded)):
            return NotRun("it did not finish within the drain")
        return outcome

    async def _execute(self, held: Held, on_abandoned: Callable[[], Callable[[], None]]) -> Outcome:
        task, now = held.task, self._config.now()
        if (late := too_late(task, now)) is not None:
            return late
        held.started = now
        self._emit(TaskStarted(**facts(held, self._config.worker, now), wait_s=waited_s(task, now)))
        memory_mb = task.memory_mb or self._memory_mb
        return await self._attempt.run(task, held.definition, on_abandoned, memory_mb=memory_mb)
