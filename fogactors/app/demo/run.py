"""The job itself: submit a task for each file and kind, a bounded number at a time, and enter each result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, Final

import anyio

from fogactors.app.demo import work
from fogactors.app.demo.ledger import KINDS, Job, Kind, Ledger, Row
from fogactors.errors import BusUnavailable, QueueFull, ResultTimeout, TaskArgumentError
from fogactors.messages import PRIORITIES, ErrorInfo, Priority, TaskResult
from fogactors.observe.snapshot import Progress
from fogactors.tasks.client import Handle, Submitter
from fogactors.tasks.task import TaskDef

__all__ = ["IN_FLIGHT", "JobRun"]

IN_FLIGHT: Final = 256
"""Tasks that are submitted and not ended: enough for priorities to mean something, far below what a queue holds, and
what memory is bounded by."""

AGAIN_S: Final = 0.5
"""Between two tries to submit while the broker is away or a queue is full."""

RESULT_S: Final = 3600.0
"""How long to wait for one result before it counts as lost: longer than any task may run and be tried again."""

_TASKS: Final[dict[Kind, TaskDef[..., Any]]] = {
    "digest": work.digest,
    "compression": work.compression,
    "tokens": work.tokens,
}


class JobRun:
    """Runs all that a ledger expects. `tiers`: names from small to large; the three kinds go to the smallest, the
    middle and the largest, whatever they are called. `on_row` is called with each row once it is entered."""

    def __init__(self, ledger: Ledger, tiers: tuple[str, ...], *, on_row: Callable[[Row], None] | None = None) -> None:
        self._ledger = ledger
        self._on_row = on_row
        homes = dict(zip(KINDS, (tiers[0], tiers[len(tiers) // 2], tiers[-1]), strict=True))
        self._tasks = {
            (kind, priority): _TASKS[kind].options(priority=priority, tier=homes[kind])
            for kind in KINDS
            for priority in PRIORITIES
        }
        self._jobs = self._all_jobs()
        self._started_at = 0.0
        self._ended_at: float | None = None
        self._stopping = False

    async def run(self, submitter: Submitter, stop: anyio.Event, *, grace_s: float) -> None:
        """Returns when each task has its result. After `stop`: nothing more is submitted, and what is under way has
        `grace_s` seconds to end; the ledger shows what is missing. Raises what `Submitter.submit` raises."""
        self._started_at = anyio.current_time()
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:

                async def watch() -> None:
                    await stop.wait()
                    self._stopping = True
                    scope.deadline = anyio.current_time() + grace_s

                async with anyio.create_task_group() as workers:
                    group.start_soon(watch)
                    for _ in range(IN_FLIGHT):
                        workers.start_soon(self._work, submitter)
                group.cancel_scope.cancel()
        self._ended_at = anyio.current_time()

    @property
    def elapsed_s(self) -> float:
        return (anyio.current_time() if self._ended_at is None else self._ended_at) - self._started_at

    def progress(self) -> Progress:
        return Progress(self._ledger.recorded, self._ledger.expected, self._ledger.failed)

    def _all_jobs(self) -> Iterator[Job]:
        for index, file in enumerate(self._ledger.found.files):
            for kind in KINDS:
                job = Job(index, file, kind)
                if self._ledger.is_open(job):
                    yield job

    async def _work(self, submitter: Submitter) -> None:
        # One iterator for all of them: whoever is free takes the next.
        for job in self._jobs:
            if self._stopping:
                return
            await self._do(job, submitter)

    async def _do(self, job: Job, submitter: Submitter) -> None:
        task = self._tasks[job.kind, job.file.priority]
        tier = task.needs.tier or ""
        try:
            handle = await self._submit(submitter, task, job.file.path)
        except TaskArgumentError as error:  # a name that is not UTF-8 has no place in JSON
            info = ErrorInfo(type=type(error).__name__, message=str(error))
            self._enter(job, _row(job, self._ledger, tier, None, info), None)
            return
        if handle is None:
            return
        try:
            result = await handle.outcome(RESULT_S)
        except ResultTimeout:
            return  # its entry stays open: that is what lost means
        value = task.decode_result(result.value) if result.value is not None else None
        self._enter(job, _row(job, self._ledger, tier, result, result.error), value)

    async def _submit(self, submitter: Submitter, task: TaskDef[..., Any], path: str) -> Handle[Any] | None:
        """Until the broker has it; with the same id each time, so that it counts once. `None`: stopped meanwhile."""
        try:
            return await submitter.submit(task, path=path)
        except (BusUnavailable, QueueFull) as error:
            unsent = error.unsent
        while not self._stopping:
            await anyio.sleep(AGAIN_S)
            try:
                return await submitter.resubmit(unsent)
            except (BusUnavailable, QueueFull):
                continue
        return None

    def _enter(self, job: Job, row: Row, value: Any) -> None:
        self._ledger.record(job, row, value)
        if self._on_row is not None:
            self._on_row(row)


def _row(job: Job, ledger: Ledger, tier: str, result: TaskResult | None, error: ErrorInfo | None) -> Row:
    priority: Priority = job.file.priority
    # Without the traceback: a row is for reading.
    error = None if error is None else ErrorInfo(type=error.type, message=error.message)
    path = ledger.shown(job.file)
    if result is None:
        return Row(path=path, kind=job.kind, tier=tier, priority=priority, state="failed", attempts=0, error=error)
    return Row(
        path=path,
        kind=job.kind,
        tier=tier,
        priority=priority,
        state=result.state,
        attempts=result.attempts,
        wait_s=_seconds(result.created, result.started),
        run_s=_seconds(result.started, result.finished),
        value=result.value,
        error=error,
    )


def _seconds(since: datetime | None, until: datetime | None) -> float | None:
    return None if since is None or until is None else max(0.0, (until - since).total_seconds())
