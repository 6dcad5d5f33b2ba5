"""Behaviours 5 and 15 of what users ask for, on a real broker and a real store: tasks that take too much memory."""

from __future__ import annotations

import math
from pathlib import Path

import anyio
import psutil
import pytest

from fogactors.errors import TaskFailed, WorkerLost
from tests.integration import memory_tasks as tasks
from tests.integration.fog import parked, submitting, until

pytestmark = [pytest.mark.services, pytest.mark.asyncio]

DELIVERIES = 4
ON_TIME_S = 5.0
"""For a short task while something else goes wrong; never reached when that does not stand in its way."""


@pytest.fixture
def fog(fog, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    fog.module = tasks.__name__
    return fog


# -- 5: a task that takes its process down


@pytest.mark.versions
async def test_a_task_that_is_killed_each_time_ends_as_worker_lost_while_others_flow(fog, tmp_path):
    note = tmp_path / "note"
    await fog.role("dlq-reaper")
    executor = await fog.executor()
    async with submitting(fog.services) as submitter, parked(fog.services) as letter:
        handle = await submitter.submit(tasks.die, note)
        others = 0

        async def flow() -> None:
            nonlocal others
            while True:
                assert await (await submitter.submit(tasks.nap, 0.01)).result(ON_TIME_S) == 0.01
                others += 1

        async with anyio.create_task_group() as group:
            group.start_soon(flow)
            with pytest.raises(WorkerLost):
                await handle.result(30)
            group.cancel_scope.cancel()
        found = await letter(handle.id)
        assert (found.reason, found.name, found.origin) == ("worker_lost", tasks.die.name, "tasks.normal")
        assert await (await submitter.submit(tasks.nap, 0)).result(ON_TIME_S) == 0
    pids = note.read_text().split()
    assert len(set(pids)) == len(pids) == DELIVERIES
    assert others >= DELIVERIES
    crashes = executor.logged("WorkerCrashed")
    assert [line["message_id"] for line in crashes] == [handle.id] * DELIVERIES
    assert all("SIGKILL, as the kernel does when the memory" in line["error"] for line in crashes)
    assert not executor.logged("ActorExited")


# -- 15: a task that takes more than it may


async def test_a_task_over_its_memory_limit_is_killed_during_the_run(fog, tmp_path):
    note = tmp_path / "note"
    await fog.role("dlq-reaper")
    executor = await fog.executor("heavy")
    async with submitting(fog.services) as submitter, parked(fog.services) as letter:
        handle = await submitter.submit(tasks.greed, note)
        result = await handle.outcome(30)
        assert (result.state, result.error.type, result.attempts) == ("failed", "MemoryLimitExceeded", 1)
        assert f"task {tasks.greed.name} took " in result.error.message
        assert "more than its limit of 200 MiB" in result.error.message
        assert (result.finished - result.started).total_seconds() < tasks.GREED_S / 2
        with pytest.raises(TaskFailed, match="MemoryLimitExceeded"):
            await handle.result(1)
        found = await letter(handle.id)
        assert (found.reason, found.origin) == ("memory_limit", "tasks.normal.heavy")
        [pid] = note.read_text().split()
        assert not psutil.pid_exists(int(pid))
        assert await (await submitter.submit(tasks.hold, 1, 0)).result(ON_TIME_S) == 1 << 20
    assert not executor.logged("WorkerCrashed")
    assert not executor.logged("ActorExited")


async def test_what_waits_and_runs_in_the_heavy_tier_does_not_slow_the_light_one(fog):
    """Both in one process, with one budget; a heavy executor that helps would make the difference look large."""
    heavies, hold_s = 10, 1.0
    await fog.role(
        *("tier-executor", "--tier", "light", "--tier", "heavy", "-i", fog.module),
        NODE__MEMORY_MB="1536",
        EXECUTOR__HELP_AFTER_S="3600",
    )
    async with submitting(fog.services) as submitter:
        light = Light(submitter)
        async with anyio.create_task_group() as group:
            for _ in range(6):  # more than its four slots
                group.start_soon(light.keep_busy)
            await until(lambda: len(light.waits) >= 200, "200 light tasks")
            alone = p99(light.waits[50:])
            heavy = [await submitter.submit(tasks.hold, 128, hold_s) for _ in range(heavies)]
            light.waits.clear()
            for handle in heavy:
                assert await handle.result(30) == 128 << 20
            light.enough = True  # and those that still wait end, or what was held up would not be seen
        beside = p99(light.waits)
    assert beside < alone + hold_s / 2, f"p99 of the wait: {alone:.3f} s alone, {beside:.3f} s beside"


class Light:
    """`waits`: seconds from submit to start, of each task that has ended."""

    def __init__(self, submitter) -> None:
        self._submitter = submitter
        self.waits: list[float] = []
        self.enough = False

    async def keep_busy(self) -> None:
        while not self.enough:
            result = await (await self._submitter.submit(tasks.nap, 0.05)).outcome(30)
            self.waits.append((result.started - result.created).total_seconds())


def p99(values: list[float]) -> float:
    return sorted(values)[math.ceil(0.99 * len(values)) - 1]
