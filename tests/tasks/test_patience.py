"""The broker takes back what is held for too long, so nothing is held for so long."""

import pytest

from fogactors.tasks import executor
from fogactors.tasks.events import TaskHandedBack, TaskRefused, TaskStarted
from fogactors.tasks.executor_config import ExecutorConfig
from fogactors.testing.kit import eventually
from tests.tasks import fog_tasks as tasks
from tests.tasks.harness import fog, message, nothing_in_hand, publish


@pytest.mark.parametrize(("limit_s", "wait_s"), [(1740.0, 30.0), (10.0, 1760.0)])
def test_what_may_run_for_long_may_not_wait_for_long(limit_s, wait_s):
    assert ExecutorConfig(node="n", tier="light").max_wait_s(limit_s) == wait_s


@pytest.mark.asyncio
async def test_a_task_that_waited_too_long_to_be_run_in_time_goes_back_uncounted_and_runs_later(monkeypatch):
    monkeypatch.setattr(executor, "TICK_S", 0.05)
    monkeypatch.setattr(ExecutorConfig, "max_wait_s", lambda self, limit_s: 0.2 if limit_s == 7 else 60.0)
    async with fog(look_ahead=4) as system:
        for name in "abcd":
            await system.submit(tasks.hold, name, "all")
        await eventually(lambda: sum(tasks.runs.values()) == 4, "no slot is free")
        impatient = await system.submit(tasks.note.options(time_limit=7), "impatient")
        patient = await system.submit(tasks.note, "patient")
        back = await system.recorder.wait_for(TaskHandedBack, timeout=3)
        assert (back.task_id, back.attempt) == (impatient.id, 1)
        tasks.gate("all").set()
        assert await patient.result(5) == "patient"
        assert await impatient.result(5) == "impatient"
        assert {event.task_id for event in system.recorder.of(TaskHandedBack)} == {impatient.id}
        assert [each.attempt for each in system.recorder.of(TaskStarted) if each.task_id == impatient.id] == [1]
        await nothing_in_hand(system)


@pytest.mark.asyncio
async def test_a_time_limit_beyond_the_brokers_patience_is_refused_at_the_first_delivery():
    async with fog(consumer_timeout_s=100.0, time_limit_s=30.0) as system:
        await publish(system, message(tasks.note, b'{"name": "a"}', time_limit=40.5))
        refused = await system.recorder.wait_for(TaskRefused)
        assert refused.reason == "rejected"
        assert "time_limit of 40.5 s is more than the 40 s" in refused.error
        assert (await system.submitter.handle("foreign-1").outcome(5)).state == "failed"
        assert not tasks.runs["a"]
