"""While the store is away no dead letter waits for it, only ends do, and on the bus."""

import pytest

from fogactors.bus import Message
from fogactors.coord import MemoryCoord
from fogactors.core import ActorExited
from fogactors.messages import Task, TaskResult
from fogactors.roles import dlq_reaper
from fogactors.tasks.events import DuplicateResult
from fogactors.tasks.replay import DlqPolicy
from fogactors.testing.kit import eventually
from fogactors.wire import decode, encode
from fogactors.wire.topology import DLX, RESULTS, RESULTS_PENDING
from tests.roles.test_dlq_reaper import NOW, all_done, given_up, lost_task, policy, reaper_alone
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


async def test_what_the_stream_refuses_is_ended_once(monkeypatch):
    monkeypatch.setattr(dlq_reaper, "LATER_S", 0.01)
    async with reaper_alone() as system:
        system.store.away = True
        system.broker.faults.refuse("dlq.parked", 5)
        await broker_gave_up(system, "lost-1")
        await eventually(lambda: system.ready("dlq.parked") == 1, "parked")
        waiting = system.broker.depths()[RESULTS_PENDING]
        assert waiting.ready + waiting.unsettled == 1


async def test_nobody_is_told_of_an_end_before_it_is_known_to_be_the_end():
    async with reaper_alone() as system:
        done = TaskResult(task_id="lost-1", name="t", state="succeeded", finished=NOW)
        await MemoryCoord(system.store).record(done)
        system.store.away = True
        for n in (1, 2):
            await broker_gave_up(system, f"lost-{n}")
        await eventually(lambda: system.ready("dlq.parked") == 2, "both are parked")
        assert system.ready("results.failed") == 0
        system.store.away = False
        await all_done(system)
        assert system.ready("results.failed") == 1
        assert [event.task_id for event in system.recorder.of(DuplicateResult)] == ["lost-1"]


async def test_who_asked_for_a_reply_has_it_when_the_end_is_recorded():
    async with reaper_alone() as system:
        queue, got = await system.bus.open_exclusive("", (("results.topic", "reply.me"),)), []
        await system.bus.consume(queue, got.append, prefetch=10)
        system.store.away = True
        task = Task(id="lost-1", name="t", created=NOW, origin="tasks.normal", reply_to="reply.me")
        await system.bus.publish(DLX, "task.failed", Message(encode(task), type="task"))
        await eventually(lambda: system.ready("dlq.parked") == 1, "parked")
        assert not got
        system.store.away = False
        await eventually(lambda: len(got) == 1, "the reply")
        assert decode(got[0].body, TaskResult).state == "failed"


async def test_a_store_that_hangs_does_not_hold_up_replays_either():
    hangs = ("record", "result")
    async with reaper_alone(
        wrap_coord=lambda coord: Hanging(coord, *hangs), **policy(failed=DlqPolicy(replay_after_s=60))
    ) as system:
        for n in range(20):
            await broker_gave_up(system, f"lost-{n}")
        await eventually(lambda: system.ready("dlq.parked") >= 20, "all are parked", timeout=10)


async def test_results_that_waited_are_recorded_together(monkeypatch):
    """One by one each would wait for the disk of the store by itself."""
    monkeypatch.setattr(dlq_reaper, "COORD_TIMEOUT_S", 0.5)
    monkeypatch.setattr(dlq_reaper, "LATER_S", 0.05)
    hanging = []

    def wrap(coord):
        hanging.append(Hanging(coord, "record"))
        hanging[0].hangs = False
        return hanging[0]

    count = 2 * dlq_reaper.RESULTS_PREFETCH
    async with reaper_alone(wrap_coord=wrap) as system:
        system.store.away = True
        for n in range(count):
            result = TaskResult(task_id=f"a-{n}", name="t", state="succeeded", finished=NOW)
            await system.bus.publish(RESULTS, RESULTS_PENDING, Message(encode(result), type="result"))
        in_hand = system.broker.depths
        await eventually(lambda: in_hand()[RESULTS_PENDING].unsettled == dlq_reaper.RESULTS_PREFETCH, "in hand")
        hanging[0].asked = 0
        await eventually(lambda: hanging[0].asked >= 2, "it asks again")
        hanging[0].hangs, system.store.away = True, False
        before = hanging[0].asked
        await eventually(lambda: hanging[0].asked == before + dlq_reaper.RESULTS_PREFETCH, "all at once")
        hanging[0].hangs = False
        await all_done(system)
        assert system.store.sizes()["results"] == count
        assert not system.recorder.of(ActorExited)
