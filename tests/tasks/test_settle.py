"""What follows an attempt when the store or the broker is not as it should be."""

from datetime import UTC, datetime

import anyio
import pytest

from fogactors.coord import MemoryCoord, MemoryStore
from fogactors.core import ActorExited
from fogactors.errors import TaskFailed
from fogactors.messages import Task, TaskResult
from fogactors.tasks import store
from fogactors.tasks.events import DuplicateResult, ResultUnrecorded, TaskDeadLettered, TaskEnded
from fogactors.tasks.feed import announce
from fogactors.testing.kit import eventually
from fogactors.wire.topology import RESULTS
from tests.tasks import fog_tasks as tasks
from tests.tasks.harness import Hanging, fog, message, nothing_in_hand, publish, settled

pytestmark = pytest.mark.asyncio


# -- the store is away


@pytest.mark.parametrize("switch", ["away", "full"])
async def test_results_wait_for_the_store_and_come_home(switch):
    async with fog() as system:
        setattr(system.store, switch, True)
        handles = [await system.submit(tasks.add, n, 1) for n in range(5)]
        failing = await system.submit(tasks.bad, "raise")
        await system.recorder.wait_for(TaskEnded, count=6)
        await system.wait_idle()
        await anyio.sleep(0.4)  # time for looks whether it is back: one that is full can be read
        assert [event.away for event in system.recorder.of(ResultUnrecorded)] == [True]
        setattr(system.store, switch, False)
        assert [await handle.result(5) for handle in handles] == [1, 2, 3, 4, 5]
        with pytest.raises(TaskFailed, match="ValueError: nope"):
            await failing.result(5)
        await nothing_in_hand(system)
        await system.recorder.wait_for(ResultUnrecorded, away=False)  # though no other result has come
        told = system.recorder.of(ResultUnrecorded)
        assert [event.away for event in told] == [True, False]
        assert told[-1].unrecorded == (await system.load()).unrecorded >= 6
        assert not system.recorder.of(ActorExited)


async def test_a_store_that_hangs_is_away_after_a_while():
    async with fog(wrap_coord=lambda coord: Hanging(coord, "record"), roles=("tier-executor",)) as system:
        handle = await system.submit(tasks.add, 1, 2)
        event = await system.recorder.wait_for(ResultUnrecorded, timeout=3)
        assert "silent for 0.2 s" in event.error
        await system.wait_idle()
        assert system.ready("results.pending") == 1
        await nothing_in_hand(system)
        assert handle.id


async def test_a_store_that_hangs_costs_few_tasks_their_time(monkeypatch):
    monkeypatch.setattr(store, "ASK_AGAIN_S", 60.0)
    hanging = []

    def hang(coord):
        hanging.append(Hanging(coord, "record", "result"))
        return hanging[-1]

    async with fog(wrap_coord=hang, roles=("tier-executor",)) as system:
        for n in range(40):
            await system.submit(tasks.add, n, 1)
        await system.recorder.wait_for(TaskEnded, count=40)
        assert sum(each.asked for each in hanging) <= 4  # those that ran when it was not known yet: one for each slot
        assert system.ready("results.pending") == 40
        assert (await system.load()).unrecorded == 40
        for each in hanging:
            each.hangs = False


async def test_reading_does_not_take_the_turn_of_who_sees_whether_the_store_is_back(monkeypatch):
    monkeypatch.setattr(store, "ASK_AGAIN_S", 0.05)
    coord, told = MemoryCoord(memory := MemoryStore()), []
    its = store.Store(coord, worker="w", emit=told.append, now=lambda: datetime.now(UTC), result_ttl_s=60)
    memory.away = True
    assert await its.record(TaskResult(task_id="a-1", name="t", state="failed", finished=datetime.now(UTC))) is None
    memory.away = False
    task = Task(id="a-1", name="t", created=datetime.now(UTC))
    with anyio.fail_after(3):
        while told[-1].away:  # as many look-ups come as there can
            await its.result(task)
            await its.begin(its.start_of(task), 1.0)
            await anyio.sleep(0.01)
    assert [each.away for each in told] == [True, False]


async def test_a_result_that_is_refused_is_tried_again_before_its_task_is_given_back():
    async with fog() as system:
        system.store.away = True
        system.broker.faults.refuse("results.pending", 2)
        handle = await system.submit(tasks.note, "a")
        await system.recorder.wait_for(TaskEnded)
        system.store.away = False
        assert await handle.result(5) == "a"
        assert tasks.runs["a"] == 1
        await nothing_in_hand(system)


async def test_without_a_place_for_its_result_a_task_is_not_acked():
    async with fog(publish_timeout_s=0.15) as system:
        system.store.away = True
        system.broker.faults.refuse("results.pending", 2)
        handle = await system.submit(tasks.note, "a")
        await eventually(lambda: tasks.runs["a"] == 2, "it runs again")
        system.store.away = False
        assert await handle.result(5) == "a"


# -- a crash between two steps: the broker delivers again


async def test_after_a_crash_between_record_and_ack_it_does_not_run_again():
    async with fog() as system:
        system.broker.faults.redeliver("tasks.normal")
        handle = await system.submit(tasks.note, "a")
        await system.recorder.wait_for(DuplicateResult, task_id=handle.id)
        await settled(system)
        assert tasks.runs["a"] == 1
        assert len(system.recorder.of(TaskEnded)) == 1


async def test_after_a_crash_between_retry_and_ack_the_cap_holds_and_the_record_is_one():
    async with fog() as system:
        system.broker.faults.redeliver("tasks.normal")
        handle = await system.submit(tasks.flaky, "a", 2)
        assert await handle.result(5) == 3
        await eventually(lambda: not system.ready("retry.1"), "the ladder is empty")
        await settled(system)
        assert tasks.runs["a"] <= 3 + 1
        assert len(system.recorder.of(TaskEnded)) == 1


async def test_after_a_crash_between_dead_letter_and_ack_the_stream_may_have_it_twice_but_the_record_once():
    async with fog() as system:
        system.broker.faults.redeliver("tasks.normal")
        handle = await system.submit(tasks.bad, "raise")
        await system.recorder.wait_for(DuplicateResult, task_id=handle.id)
        await settled(system)
        assert [event.state for event in system.recorder.of(TaskEnded)] == ["failed"]


async def test_the_executor_tells_of_the_end_although_the_reaper_may_be_faster():
    async with fog() as system:
        system.broker.faults.confirm_delay_s = 0.05  # the reaper has the letter before the executor has its confirm
        handle = await system.submit(tasks.bad, "raise")
        await system.recorder.wait_for(TaskEnded, task_id=handle.id, state="failed")
        assert not system.recorder.of(DuplicateResult)


# -- the broker refuses


async def test_a_task_that_cannot_be_handed_to_the_ladder_stays_and_is_tried_again():
    async with fog() as system:
        system.broker.faults.refuse("retry.1")
        assert await (await system.submit(tasks.flaky, "a", 2)).result(5) == 3
        await settled(system)


async def test_a_feed_that_refuses_keeps_no_task_from_its_end():
    async with fog() as system:
        system.broker.faults.refuse("results.success", 3)
        for n in range(3):
            assert await (await system.submit(tasks.add, n, 0)).result(5) == n
        await settled(system)


# -- too large


async def test_a_task_of_the_largest_size_can_be_retried_and_given_up():
    async with fog() as system:
        body = message(tasks.bad, args=b'{"how": "raise", "pad": "%s"}' % (b"x" * 1_048_000))[:-1] + b"}"
        assert 1_048_000 < len(body) <= 1_048_576
        await publish(system, body)
        await system.recorder.wait_for(TaskDeadLettered)
        await eventually(lambda: system.ready("dlq.parked") == 1, "parked")
        assert system.dead_letters[0].body == body
        await settled(system)


async def test_a_letter_that_is_too_large_goes_without_its_body():
    async with fog(max_body=100_000) as system:
        body = message(tasks.bad, args=b'{"how": "raise", "pad": "%s"}' % (b"x" * 90_000))
        await publish(system, body)
        await eventually(lambda: system.ready("dlq.parked") == 1, "parked")
        letter = system.dead_letters[0]
        assert letter.body == b""
        assert f"its body of {len(body)} bytes was too large to be kept" in letter.error.message
        with pytest.raises(TaskFailed):
            await system.submitter.handle("foreign-1").result(5)
        await settled(system)


# -- what another client writes


async def test_a_reply_to_may_not_lead_into_the_feed():
    async with fog() as system:
        got = []
        queue = await system.bus.open_exclusive("", ((RESULTS, "results.success.forged"),))
        await system.bus.consume(queue, got.append, prefetch=10)
        await publish(system, message(tasks.add, b'{"a": 1, "b": 2}', reply_to="results.success.forged"))
        await system.recorder.wait_for(TaskEnded)
        await settled(system)
        assert got == []


async def test_nothing_is_published_with_a_key_that_amqp_cannot_carry():
    keys = []

    class Bus:
        async def publish(self, exchange, key, message, **_):
            keys.append(key)

    result = TaskResult(task_id="a", name="x" * 300, state="failed", finished=datetime.now(UTC))
    await announce(Bus(), result, "reply.me", timeout=1)
    result.name = "t"
    await announce(Bus(), result, "reply." + "y" * 300, timeout=1)
    assert keys == ["reply.me", "results.failed.t"]


async def test_a_name_that_makes_no_routing_key_is_refused_like_any_other():
    class Long:
        name = "x" * 300

    async with fog() as system:
        await publish(system, message(Long, reply_to="reply." + "y" * 300))
        with pytest.raises(TaskFailed, match="UnknownTask"):
            await system.submitter.handle("foreign-1").result(5)
        await settled(system)


async def test_fields_of_a_newer_version_survive_a_retry():
    async with fog() as system:
        body = message(tasks.flaky, b'{"name": "a", "failures": 9}', max_attempts=2)
        await publish(system, body[:-1] + b',"colour":"red"}')
        await eventually(lambda: system.ready("dlq.parked") == 1, "parked")
        letter = system.dead_letters[0]
        assert letter.attempts == 2
        assert b'"colour":"red"' in letter.body
