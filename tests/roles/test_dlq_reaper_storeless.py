"""While the store is away no dead letter waits for it, only ends do, and on the bus."""

import pytest

from fogactors.bus import Message
from fogactors.core import ActorExited
from fogactors.messages import Task
from fogactors.roles import dlq_reaper
from fogactors.testing.kit import eventually
from fogactors.wire import encode
from fogactors.wire.topology import DLX, RESULTS_PENDING
from tests.roles.test_dlq_reaper import NOW, all_done, given_up, lost_task, reaper_alone
from tests.tasks.harness import Hanging

pytestmark = pytest.mark.asyncio


async def broker_gave_up(system, task_id):
    task = Task(id=task_id, name="t", created=NOW, origin="tasks.normal")
    await system.bus.publish(DLX, "task.failed", Message(encode(task), type="task"))


@pytest.mark.parametrize("how", ["away", "hangs"])
async def test_without_the_store_all_is_parked_and_the_ends_wait_and_come_home(monkeypatch, how):
    monkeypatch.setattr(dlq_reaper, "COORD_TIMEOUT_S", 0.05)
    hanging = []

    def wrap(coord):
        hanging.append(Hanging(coord, "record"))
        hanging[0].hangs = how == "hangs"
        return hanging[0]

    count = dlq_reaper.PREFETCH + 1
    async with reaper_alone(wrap_coord=wrap) as system:
        system.store.away = how == "away"
        for n in range(count):
            await broker_gave_up(system, f"lost-{n}")
        await given_up(system)
        handle = await lost_task(system)
        await eventually(lambda: system.ready("dlq.parked") == count + 2, "all are parked")
        await eventually(lambda: hanging[0].asked >= 4, "it tries again and again")
        waiting = system.broker.depths()[RESULTS_PENDING]
        assert waiting.ready + waiting.unsettled == count + 1
        assert system.store.sizes()["results"] == 0
        system.store.away = hanging[0].hangs = False
        assert (await handle.outcome(5)).state == "worker_lost"
        for n in range(count):
            assert (await system.submitter.handle(f"lost-{n}").outcome(5)).state == "failed"
        await all_done(system)
        assert system.ready("results.failed") == count + 1
        assert not system.recorder.of(ActorExited)


async def test_a_store_that_hangs_costs_a_second_once_and_not_for_each_letter():
    async with reaper_alone(wrap_coord=lambda coord: Hanging(coord, "record")) as system:
        for n in range(20):
            await broker_gave_up(system, f"lost-{n}")
        await eventually(lambda: system.ready("dlq.parked") == 20, "all are parked", timeout=10)


async def test_an_end_that_neither_the_store_nor_the_bus_takes_is_tried_again():
    async with reaper_alone() as system:
        system.store.away = True
        system.broker.faults.refuse(RESULTS_PENDING, 1)
        await broker_gave_up(system, "lost-1")
        await eventually(lambda: system.ready("dlq.parked") == 1, "parked")
        assert system.broker.depths()[RESULTS_PENDING].unsettled == 1
        system.store.away = False
        assert (await system.submitter.handle("lost-1").outcome(5)).state == "failed"
