"""Behaviours 15 and 16: the urgent passes, the unimportant moves, and a full tier does not slow the one beside it."""

import pytest

from fogactors.tasks.events import TaskStarted
from fogactors.testing.kit import eventually
from tests.tasks import fog_tasks as tasks
from tests.tasks.harness import fog

pytestmark = pytest.mark.asyncio


async def test_one_high_task_starts_soon_although_a_thousand_low_ones_wait():
    async with fog() as system:
        low = tasks.nap.options(priority="low")
        for _ in range(1000):
            await system.submit(low, 0.001)
        await system.recorder.wait_for(TaskStarted, count=50)
        before = len(system.recorder.of(TaskStarted))
        handle = await system.submit(tasks.nap.options(priority="high"), 0.001)
        await handle.result(5)
        order = [event.priority for event in system.recorder.of(TaskStarted)]
        prefetch = 4 + 1
        assert order[before:].index("high") <= prefetch + 1
        await system.stop()


async def test_low_work_moves_under_constant_high_load():
    async with fog() as system:
        for name in "abcd":  # nothing else starts before all of it is queued
            await system.submit(tasks.hold, name, "all")
        for _ in range(30):
            await system.submit(tasks.nap.options(priority="low"), 0.001)
        for _ in range(300):
            await system.submit(tasks.nap.options(priority="high"), 0.001)
        tasks.gate("all").set()
        await system.recorder.wait_for(TaskStarted, count=204)
        order = [event.priority for event in system.recorder.of(TaskStarted)][4:204]
        for at in range(len(order) - 10):
            assert "low" in order[at : at + 11]
        assert order.count("high") > 170
        await system.stop()


async def test_ten_queued_heavy_tasks_do_not_make_light_ones_wait():
    async def longest_wait(system):
        system.recorder.clear()
        handles = [await system.submit(tasks.nap, 0.005) for _ in range(100)]
        for handle in handles:
            await handle.result(10)
        return sorted(event.wait_s for event in system.recorder.of(TaskStarted) if event.lane_tier == "light")[98]

    # Without its help in both cases: that an idle heavy executor makes light work faster is another matter.
    async with fog(serve=("light", "heavy"), help_after_s=60) as system:
        alone_s = await longest_wait(system)
        for n in range(10):
            await system.submit(tasks.block.options(tier="heavy"), f"heavy {n}")
        await eventually(lambda: sum(tasks.runs[f"heavy {n}"] for n in range(10)) == 2, "heavy is full")
        assert await longest_wait(system) < 3 * alone_s + 0.5
        assert (await system.load("heavy")).running == 2
        for n in range(10):
            tasks.lock(f"heavy {n}").set()
        await system.wait_idle("heavy")
