"""Every dead letter gets its end and its place in the stream, whatever happens to the reaper between two steps."""

from datetime import UTC, datetime

import anyio
import pytest

from fogactors.bus import Message
from fogactors.bus.embedded.channel import MemoryDelivery
from fogactors.coord import MemoryCoord
from fogactors.core import ActorExited, ActorStarted
from fogactors.errors import TaskFailed, WorkerLost
from fogactors.messages import DeadLetter, TaskResult
from fogactors.roles import dlq_reaper
from fogactors.roles.dlq_reaper import DLQReaper
from fogactors.tasks.deadletter import publish_letter
from fogactors.tasks.events import TaskDeadLettered
from fogactors.testing.kit import eventually
from fogactors.wire import encode
from fogactors.wire.topology import DLX, RESULTS, RESULTS_PENDING
from tests.tasks import fog_tasks as tasks
from tests.tasks.harness import Hanging, fog, nothing_in_hand

pytestmark = pytest.mark.asyncio

REAPER = "fogactors/dlq-reaper/reaper"
NOW = datetime(2030, 1, 1, tzinfo=UTC)


def reaper_alone(**options):
    return fog(roles=("dlq-reaper",), **options)


async def lost_task(system):
    """A task that its consumers took and gave back until the broker had enough of it."""
    handle = await system.submit(tasks.add, 1, 2)
    got = []
    consumer = await system.bus.consume("tasks.normal", got.append, prefetch=1)
    for n in range(4):
        await eventually(lambda n=n: len(got) == n + 1, "a delivery")
        await got[-1].requeue()
    await consumer.close()
    return handle


async def all_done(system):
    await nothing_in_hand(system)
    assert (system.ready("dlq"), system.ready(RESULTS_PENDING)) == (0, 0)


async def test_a_task_whose_workers_died_ends_as_lost_and_is_parked():
    async with reaper_alone() as system:
        handle = await lost_task(system)
        with pytest.raises(WorkerLost, match="was given up"):
            await handle.result(5)
        event = await system.recorder.wait_for(TaskDeadLettered, task_id=handle.id)
        assert (event.reason, event.worker, event.origin) == ("worker_lost", "node/dlq-reaper", "tasks.normal")
        [letter] = await system.parked()
        assert (letter.reason, letter.task_id, letter.origin) == ("worker_lost", handle.id, "tasks.normal")
        assert system.ready("results.failed") == 1
        await all_done(system)


async def test_a_record_that_is_there_stays():
    async with reaper_alone() as system:
        handle = await system.submit(tasks.add, 1, 2)
        done = TaskResult(task_id=handle.id, name="t", state="succeeded", finished=NOW)
        await MemoryCoord(system.store).record(done)
        got = []
        consumer = await system.bus.consume("tasks.normal", got.append, prefetch=1)
        for n in range(4):
            await got[n].requeue()
        await consumer.close()
        await system.recorder.wait_for(TaskDeadLettered)
        assert (await handle.outcome(1)).state == "succeeded"
        assert system.ready("results.failed") == 0


async def test_what_an_executor_gave_up_on_is_parked_and_its_end_left_to_the_executor():
    async with reaper_alone() as system:
        letter = DeadLetter(id="a-1", task_id="a-1", reason="failed", body=b"x", first=NOW, last=NOW)
        await publish_letter(system.bus, DLX, letter, timeout=1)
        await eventually(lambda: system.ready("dlq.parked") == 1, "parked")
        assert await system.parked() == [letter]
        assert system.store.sizes()["results"] == 0
        assert not system.recorder.of(TaskDeadLettered)
        await all_done(system)


@pytest.mark.parametrize(
    ("owner", "step"),
    [
        (DLQReaper, "_reap"),
        (DLQReaper, "_record"),
        (DLQReaper, "_publish"),
        (MemoryDelivery, "ack"),
    ],
)
@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_crash_at_any_step_loses_neither_the_end_nor_the_letter(monkeypatch, owner, step, when):
    real, failed = getattr(owner, step), []

    async def fails_once(self, *args, **kwargs):
        if failed:
            return await real(self, *args, **kwargs)
        failed.append(step)
        if when == "after":
            await real(self, *args, **kwargs)
        raise RuntimeError(f"{when} {step}")

    async with reaper_alone() as system:
        monkeypatch.setattr(owner, step, fails_once)
        handle = await lost_task(system)
        assert (await handle.outcome(5)).state == "worker_lost"
        event = await system.recorder.wait_for(ActorExited, path=REAPER)
        assert str(event.exit.error) == f"{when} {step}"
        await system.recorder.wait_for(ActorStarted, path=REAPER, incarnation=2)
        await eventually(lambda: system.ready("dlq") == 0, "reaped")
        await all_done(system)
        assert {letter.task_id for letter in await system.parked()} == {handle.id}
        assert len(await system.parked()) in (1, 2)
        assert system.ready("results.failed") <= 1


async def test_a_reaper_that_is_killed_while_it_records_begins_again(monkeypatch):
    monkeypatch.setattr(dlq_reaper, "COORD_TIMEOUT_S", 60)
    hanging = []

    def wrap(coord):
        hanging.append(Hanging(coord, "record"))
        return hanging[0]

    async with reaper_alone(wrap_coord=wrap) as system:
        handle = await lost_task(system)
        await eventually(lambda: hanging[0].asked == 1, "it records")
        hanging[0].hangs = False
        system.actors.ref(REAPER).kill()
        assert (await handle.outcome(5)).state == "worker_lost"
        await eventually(lambda: system.ready("dlq.parked") == 1, "parked")
        await all_done(system)


@pytest.mark.parametrize("how", ["away", "hangs"])
async def test_without_the_store_nothing_is_settled_and_then_all_is(monkeypatch, how):
    monkeypatch.setattr(dlq_reaper, "COORD_TIMEOUT_S", 0.05)
    hanging = []

    def wrap(coord):
        hanging.append(Hanging(coord, "record"))
        hanging[0].hangs = how == "hangs"
        return hanging[0]

    async with reaper_alone(wrap_coord=wrap) as system:
        handle = await system.submit(tasks.add, 1, 2)
        system.store.away = how == "away"
        got = []
        consumer = await system.bus.consume("tasks.normal", got.append, prefetch=1)
        for n in range(4):
            await got[n].requeue()
        await consumer.close()
        pending = TaskResult(task_id="b-1", name="t", state="succeeded", finished=NOW)
        await system.bus.publish(RESULTS, RESULTS_PENDING, Message(encode(pending), type="result"))
        await eventually(lambda: hanging[0].asked >= 4, "it tries again and again")
        assert system.broker.depths()["dlq"].unsettled == 1
        assert system.broker.depths()[RESULTS_PENDING].unsettled == 1
        assert system.ready("dlq.parked") == 0
        system.store.away = hanging[0].hangs = False
        assert (await handle.outcome(5)).state == "worker_lost"
        assert (await system.submitter.handle("b-1").outcome(5)).state == "succeeded"
        await eventually(lambda: system.ready("dlq.parked") == 1, "parked")
        await all_done(system)
        assert not system.recorder.of(ActorExited)


async def test_a_stream_that_refuses_is_tried_again_later_and_not_at_once():
    async with reaper_alone() as system:
        system.broker.faults.refuse("dlq.parked", 3)
        began = anyio.current_time()
        await lost_task(system)
        await eventually(lambda: system.ready("dlq.parked") == 1, "parked")
        await all_done(system)
        assert not system.recorder.of(ActorExited)
        assert anyio.current_time() - began > 2.5 * dlq_reaper.LATER_S


async def test_a_letter_that_no_publish_takes_does_not_come_round_for_ever():
    async with reaper_alone(max_body=2_000) as system:
        body = b"x" * 3_000
        await system.bus.publish(DLX, "task.failed", Message(body, message_id="m-1"))
        await eventually(lambda: system.ready("dlq.parked") == 1, "parked")
        [letter] = await system.parked()
        assert (letter.id, letter.reason, letter.body) == ("m-1", "malformed", b"")
        await all_done(system)


async def test_a_pending_result_that_is_none_becomes_a_dead_letter():
    async with reaper_alone() as system:
        await system.bus.publish(RESULTS, RESULTS_PENDING, Message(b"garbage", type="result"))
        await eventually(lambda: system.ready("dlq.parked") == 1, "parked")
        [letter] = await system.parked()
        assert (letter.reason, letter.body, letter.origin) == ("malformed", b"garbage", RESULTS_PENDING)
        await all_done(system)


async def test_a_lost_connection_costs_a_restart_and_nothing_else():
    async with fog(roles=("dlq-reaper", "tier-executor")) as system:
        system.kill("dlq-reaper")
        handle = await system.submit(tasks.bad, "raise")
        with pytest.raises(TaskFailed):
            await handle.result(5)
        await system.recorder.wait_for(ActorStarted, path=REAPER, incarnation=2)
        await eventually(lambda: system.ready("dlq.parked") == 1, "parked")
        assert [event.exit.kind for event in system.recorder.of(ActorExited, REAPER)] == ["stopped"]
