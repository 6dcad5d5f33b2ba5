"""Bad days: a bug in the executor, a lost connection, a killed process. Nothing is lost, and each record is one."""

import os
import random
import signal

import anyio
import pytest

from fogactors.core import ActorExited, ActorStarted, Intensity, SupervisorPaused
from fogactors.tasks.events import QueueUnavailable, TaskEnded, TaskStarted, WorkerCrashed
from fogactors.tasks.executor import TierExecutor
from fogactors.tasks.runner import Runner
from fogactors.tasks.settle import Settler
from fogactors.testing.kit import eventually
from fogactors.wire import fog_topology
from tests.tasks import fog_tasks as tasks
from tests.tasks.harness import fog, nothing_in_hand, publish

pytestmark = pytest.mark.asyncio

EXECUTOR = "fogactors/tier-executor-light/executor"
LINK = "fogactors/tier-executor-light/link"


async def all_held(system, names):
    handles = [await system.submit(tasks.hold, name, "all") for name in names]
    await eventually(lambda: all(tasks.runs[name] for name in names), "all run")
    return handles


def fail_once(monkeypatch, owner, name, error):
    real = getattr(owner, name)
    failed = []

    async def method(self, *args):
        if not failed:
            failed.append(args)
            raise error
        return await real(self, *args)

    monkeypatch.setattr(owner, name, method)


@pytest.mark.parametrize("where", [(Settler, "succeeded"), (Runner, "run"), (TierExecutor, "_look_up")])
async def test_a_bug_ends_the_executor_and_all_that_it_held_is_delivered_again(monkeypatch, where):
    fail_once(monkeypatch, *where, error := RuntimeError("a bug"))
    async with fog() as system:
        handles = [await system.submit(tasks.hold, name, "all") for name in "abcdef"]
        system.broker.faults.redeliver("tasks.normal")
        tasks.gate("all").set()
        assert [await handle.result(5) for handle in handles] == list("abcdef")
        await system.recorder.wait_for(ActorStarted, path=EXECUTOR, incarnation=2)
        exits = [event.exit for event in system.recorder.of(ActorExited, EXECUTOR)]
        assert [each.error for each in exits] == [error]  # as it was raised, not in a group
        await system.wait_idle()
        await nothing_in_hand(system)
        assert len(system.recorder.of(TaskEnded)) == 6
        assert system.ready("dlq.parked") == 0


async def test_a_killed_executor_loses_nothing():
    async with fog() as system:
        handles = await all_held(system, "abcd")
        system.executor().kill()
        await eventually(lambda: all(tasks.runs[name] == 2 for name in "abcd"), "all run again")
        tasks.gate("all").set()
        assert [await handle.result(5) for handle in handles] == list("abcd")
        assert len(system.recorder.of(TaskEnded)) == 4


async def test_a_lost_connection_costs_one_restart_and_no_task():
    async with fog() as system:
        handles = await all_held(system, "abcd")
        system.cut("tier-executor-light")
        await eventually(lambda: all(tasks.runs[name] == 2 for name in "abcd"), "all run again")
        tasks.gate("all").set()
        assert [await handle.result(5) for handle in handles] == list("abcd")
        await system.wait_idle()
        assert len(system.recorder.of(TaskEnded)) == 4
        # The link fails, and what stands on it is stopped with it: it does not fail as well.
        assert [str(event.exit).partition(":")[0] for event in system.recorder.of(ActorExited, LINK)] == ["failed"]
        assert [event.exit.kind for event in system.recorder.of(ActorExited, EXECUTOR)] == ["stopped"]


async def test_a_broker_that_is_away_for_a_while_is_waited_for():
    async with fog(intensity=Intensity(3, 5.0)) as system:
        handles = await all_held(system, "abcd")
        system.broker.faults.down()
        await system.recorder.wait_for(ActorExited, path=EXECUTOR)
        await system.recorder.wait_for(SupervisorPaused)
        system.broker.faults.up()
        tasks.gate("all").set()
        assert [await handle.result(10) for handle in handles] == list("abcd")
        assert len(system.recorder.of(TaskEnded)) == 4


async def test_handing_back_while_the_connection_goes_does_not_hold_up_the_restart():
    heavy = "fogactors/tier-executor-heavy/executor"
    async with fog(serve=("heavy",), publish_timeout_s=30, drain_s=0.1) as system:
        await eventually(lambda: system.broker.depths()["tasks.low_priority"].consumers > 0, "it helps")
        for _ in range(2):
            await system.submit(tasks.hold.options(tier="heavy"), "big", "never")
        for priority in ("high", "normal", "low"):
            await system.submit(tasks.note.options(priority=priority), priority)
        system.broker.faults.confirm_delay_s = 5
        await eventually(lambda: system.ready("retry.1") > 0, "one is handed back and not yet confirmed")
        system.kill("tier-executor-heavy")
        system.broker.faults.confirm_delay_s = 0
        await system.recorder.wait_for(ActorStarted, path=heavy, incarnation=2, timeout=2)


async def test_kill_9_of_a_worker_process_in_mid_task_runs_it_again(tmp_path):
    async with fog() as system:
        handle = await system.submit(tasks.stay, tmp_path)
        await eventually((tmp_path / "pid").exists, "it runs", timeout=10)
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
        assert await handle.result(10) == "second"
        assert "SIGKILL" in system.recorder.of(WorkerCrashed)[0].error
        assert (await handle.outcome(1)).attempts == 2
        await system.wait_idle()
        await nothing_in_hand(system)


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_happens_each_task_has_one_end_and_all_of_the_tier_is_free_again(seed):
    rng = random.Random(seed)
    calls = [
        (tasks.add, (1, 2)),
        (tasks.bad, ("raise",)),
        (tasks.bad, ("cancelled",)),
        (tasks.bad_thread, ("exit",)),
        (tasks.bad, ("large",)),
        (tasks.hang, ()),
        (tasks.note.options(cpu=0.5), ("big",)),
        (tasks.note.options(memory_mb=300), ("wide",)),
        (tasks.note.options(deadline_s=1e-6), ("late",)),
    ]
    async with fog() as system:
        handles = []
        for n in range(80):
            task, args = rng.choice(calls)
            handles.append(await system.submit(task.options(priority=rng.choice(["high", "normal", "low"])), *args))
            if rng.random() < 0.1:
                await publish(system, b"garbage")
            if n % 20 == 19:
                await anyio.sleep(rng.random() * 0.02)
                rng.choice([system.executor().kill, lambda: system.broker.kill_connection("tier-executor-light")])()
        for handle in handles:
            await handle.outcome(10)
        await system.wait_idle()
        await nothing_in_hand(system)
        assert system.store.sizes()["results"] == 80
        ended = [event.task_id for event in system.recorder.of(TaskEnded)]
        assert len(ended) == len(set(ended))


async def test_a_publish_whose_confirm_is_lost_runs_the_attempt_twice_and_records_it_once():
    async with fog() as system:
        handle = await system.submit(tasks.flaky, "a", 1)
        system.broker.faults.lose_confirms()
        assert await handle.result(5) in (2, 3)
        await system.wait_idle()
        await anyio.sleep(0.15)  # the other copy, if it is still on the ladder
        await system.wait_idle()
        attempts = [event.attempt for event in system.recorder.of(TaskStarted)]
        assert max(attempts) <= 3
        assert len(system.recorder.of(TaskEnded)) == 1
        await nothing_in_hand(system)


async def test_the_death_of_a_queue_is_told_ends_nothing_that_runs_and_is_healed_by_its_return():
    async with fog() as system:
        running = await system.submit(tasks.hold.options(priority="high"), "gate")
        await system.recorder.wait_for(TaskStarted, task_id=running.id)
        system.broker.delete_queue("tasks.normal")
        event = await system.recorder.wait_for(QueueUnavailable, priority="normal")
        assert "tasks.normal" in event.error
        system.broker.declare(fog_topology())
        assert await (await system.submit(tasks.add, 1, 2)).result(5) == 3
        tasks.gate("gate").set()
        assert (await running.outcome(5)).attempts == 1
        assert not system.recorder.of(ActorExited)
